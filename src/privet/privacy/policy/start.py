"""The policy that a data holder starts from."""

from __future__ import annotations

_TEXT = """\
# What privet may do with the records of this silo. Whoever signs for the records owns this file.
# What it does not allow is refused. As it stands nothing can run: fill in who may ask, and for
# which tasks. Then read what it means:
#
#     privet policy check FILE
#
# Settings that begin with # are examples; take the # away to use them.

version = 1

# One table for each data set, under the name that it has in the ledger. Replace my-data.
[data.my-data]
# Who may ask, by name. ["*"] would be anyone.
requesters = []
# Tasks that come with privet and may run (privet tasks lists them). ["*"] would be all of them.
tasks = []
# Other people's tasks, by the hash of their code ("sha256:" and 64 digits), once it has been read.
code = []

# How much each record may lose, as epsilon at delta. The ledger counts it; what is spent never
# comes back. Small is strict: 1 is a strong promise, 3 a usual one, above 10 hardly any.
[data.my-data.budget]
# All jobs together, over the whole life of the ledger.
epsilon = 1.0
# Chance that the promise is void: well below one in the number of records.
delta = 1e-6
# Limits within that one, if wanted: for one job, for a calendar month, for one requester.
epsilon_per_job = 0.5
#epsilon_per_month = 0.5
#epsilon_per_requester = 0.5

[data.my-data.training]
# Training without differential privacy: a model can then repeat whole records. It needs
# epsilon = inf above, because no number is large enough.
plain = false
# What is protected: "record", or "client" (all records of a silo at once).
units = ["record"]
# "dp-sgd" (noise in every training step), "gaussian" (noise on a sum).
mechanisms = ["dp-sgd"]
# Least noise in a step, over the largest share of one record in it.
smallest_noise_multiplier = 0.5
# Expected share of the records that a step uses.
smallest_sampling_rate = 0.0
largest_sampling_rate = 1.0

[data.my-data.sending]
# Whether the number of records may leave.
records_public = false
# Whether updates must be encrypted, so that the server sees only sums.
encryption_required = false
# Fewest silos in a sum, this one included. It hides this silo from the server only if updates are
# encrypted, and from other silos only as far as they do not work together.
smallest_sum = 1

# What an evaluation on the records may send, by metric: "withheld", "exact" (unprotected and not
# counted) or "noised" (for accuracy; noise as a multiple of what one record can add, counted in
# the budget every time). A metric that is not here is withheld.
[data.my-data.metrics]
#accuracy = { release = "noised", noise_multiplier = 50.0 }
loss = { release = "withheld" }

# When jobs may run, by the clock of a time zone; without this table at any time. An end at or
# before the start is on the next day.
#[data.my-data.hours]
#timezone = "Europe/Berlin"
#days = ["mon", "tue", "wed", "thu", "fri"]
#start = "19:00"
#end = "06:00"
"""


def starting_policy() -> str:
    """A commented policy in TOML with every setting in it; it is valid and lets nothing run."""
    return _TEXT
