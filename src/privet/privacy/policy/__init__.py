"""What the data holder allows: a file at the silo that bounds every job.

Deciding is pure: it reads no clock, no ledger and no record.

policy = Policy.from_file(path)
decision = policy.decide(request)
if not decision.allowed: ...  # decision.reason may be sent; it says nothing about the records

A job can ask for less than the policy allows, never for more; what the policy does not name is
refused.
"""

from privet.privacy.policy.explanation import best_guess, explain, starting_policy
from privet.privacy.policy.policy import BudgetLimit, Decision, MetricRule, Policy, Refusal, Request
from privet.privacy.policy.rules import PolicyError

__all__ = [
    "BudgetLimit",
    "Decision",
    "MetricRule",
    "Policy",
    "PolicyError",
    "Refusal",
    "Request",
    "best_guess",
    "explain",
    "starting_policy",
]
