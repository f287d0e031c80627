"""What a server learns with silos on its side, for every set of them and every list of survivors.

An exact model of one masked round: unknown are all updates, personal masks and pairwise masks. The
server has every upload, also of silos that it declares to have dropped out, everything of those
that side with it, and every secret of which it has `threshold` shares. What it can work out about
updates is the part of the row space in which no mask is left; each combination in it must have at
least threshold - colluding honest updates. That the silos keep to the model's one rule (one list,
the silo on it, long enough, nothing before enough have agreed) is tested with the real rounds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.privacy.encryption.errors import KeysError
from privet.privacy.encryption.keys import Member, Roster, Session
from privet.privacy.encryption.masks import (
    Advert,
    Adverts,
    MaskRound,
    RoundPlan,
    least_threshold,
)
from privet.privacy.encryption.masks.unmasking import read_reveal
from privet.privacy.ledger import SiloKey
from sums_under_attack import NAMES_LONG, MaliciousServer, job, malicious_server, refusals

Silos = frozenset[int]


def subsets(silos: Silos, *, least: int = 0, most: int | None = None) -> Iterator[Silos]:
    most = len(silos) if most is None else most
    for size in range(least, most + 1):
        yield from map(frozenset, itertools.combinations(sorted(silos), size))


class Round:
    """One masked round of `n` silos, of which `corrupt` tell the server everything."""

    def __init__(self, n: int, corrupt: Silos, threshold: int) -> None:
        self.n, self.corrupt, self.threshold = n, corrupt, threshold
        self.honest: Silos = frozenset(range(n)) - corrupt
        self.pairs = {pair: 2 * n + k for k, pair in enumerate(itertools.combinations(range(n), 2))}
        self.width = 2 * n + len(self.pairs)
        """Columns: n updates, n personal masks, then the masks of pairs."""

    def unit(self, column: int) -> np.ndarray:
        row = np.zeros(self.width)
        row[column] = 1
        return row

    def upload(self, silo: int) -> np.ndarray:
        row = self.unit(silo) + self.unit(self.n + silo)
        for pair, column in self.pairs.items():
            if silo in pair:
                row[column] = 1 if silo == pair[0] else -1
        return row

    def lists(self) -> Iterator[tuple[Silos, Silos]]:
        """Survivors that can be unmasked, and which honest silos consent: enough of them do."""
        for survivors in subsets(frozenset(range(self.n)), least=self.threshold):
            for willing in subsets(survivors & self.honest):
                if len(willing) + len(self.corrupt) >= self.threshold:
                    yield survivors, willing

    def known(self, survivors: Silos, willing: Silos) -> np.ndarray:
        """All that the server can put together after these reveals, as rows."""
        rows = [self.upload(silo) for silo in range(self.n)]
        for silo in self.corrupt:
            rows += [self.unit(silo), *self.key_of(silo), self.unit(self.n + silo)]
        for silo in self.honest:
            in_it, shares = silo in survivors, len(self.corrupt)
            if shares + (len(willing) if in_it else 0) >= self.threshold:
                rows.append(self.unit(self.n + silo))
            if shares + (0 if in_it else len(willing)) >= self.threshold:
                rows += self.key_of(silo)
        return np.array(rows)

    def key_of(self, silo: int) -> list[np.ndarray]:
        return [self.unit(column) for pair, column in self.pairs.items() if silo in pair]

    def told(self, rows: np.ndarray) -> np.ndarray:
        """Combinations of honest updates that the rows determine, shape (k, honest)."""
        hidden = [c for c in range(self.width) if c >= self.n or c in self.corrupt]
        left = null_space(rows[:, hidden].T)
        combinations = left @ rows[:, sorted(self.honest)]
        return row_space(combinations)


def null_space(matrix: np.ndarray) -> np.ndarray:
    """Rows v with matrix @ v = 0; entries here are -1, 0, 1, so floats are exact enough."""
    _, values, right = np.linalg.svd(matrix)
    return right[int((values > 1e-9).sum()) :]


def row_space(matrix: np.ndarray) -> np.ndarray:
    _, values, right = np.linalg.svd(matrix)
    return right[: int((values > 1e-9).sum())]


def settings(silos: int) -> list[tuple[int, int]]:
    return [
        (silos, colluding)
        for colluding in range(silos)
        if silos >= max((silos + colluding) // 2 + 1, colluding + 2)
    ]


CASES = [each for n in range(3, 8) for each in settings(n)]


@pytest.mark.parametrize(("silos", "colluding"), CASES)
def test_what_can_be_unmasked_is_one_sum_with_enough_honest_updates(
    silos: int, colluding: int
) -> None:
    threshold = least_threshold(silos, colluding=colluding)
    promised = threshold - colluding
    seen = 0
    for corrupt in subsets(frozenset(range(silos)), most=colluding):
        attack = Round(silos, corrupt, threshold)
        for survivors, willing in attack.lists():
            told = attack.told(attack.known(survivors, willing))
            # One combination, of equal parts of all honest survivors, and so no other over any
            # number of rounds, whose updates are other unknowns.
            assert len(told) == 1
            parts = np.abs(told[0]) > 1e-9
            honest = [silo in survivors for silo in sorted(attack.honest)]
            assert parts.tolist() == honest
            assert parts.sum() >= promised
            seen += 1
    assert seen


@pytest.mark.parametrize(("silos", "colluding"), CASES)
def test_no_two_lists_are_unmasked_in_a_round(silos: int, colluding: int) -> None:
    """A silo consents once: two lists take different honest silos, and there are too few."""
    threshold = least_threshold(silos, colluding=colluding)
    for corrupt in subsets(frozenset(range(silos)), most=colluding):
        attack = Round(silos, corrupt, threshold)
        least: dict[Silos, set[Silos]] = {}
        for survivors, willing in attack.lists():
            if len(willing) + len(corrupt) == threshold:
                least.setdefault(survivors, set()).add(willing)
        for (_, ones), (_, others) in itertools.combinations(least.items(), 2):
            assert all(one & other for one in ones for other in others)


def test_one_below_the_threshold_the_same_check_finds_the_attack() -> None:
    """Else it would find nothing at all: with 5 silos and a threshold of 3, two lists are there."""
    attack = Round(5, frozenset({4}), 3)
    lists = list(attack.lists())
    two = [
        (one, other)
        for one, other in itertools.combinations(lists, 2)
        if one[0] != other[0] and not one[1] & other[1]
    ]
    assert two
    rows = [attack.known(*each) for each in two[0]]
    assert len(attack.told(np.concatenate(rows))) > 1


NAMES = ("silo-a", "silo-b", "silo-c", "silo-d", "silo-e")


def real_rounds(folder: Path, n: int) -> dict[str, MaskRound]:
    """Rounds of real silos that have masked."""
    names = NAMES[:n]
    keys = {name: SiloKey.create(folder / f"{name}.key") for name in names}
    roster = Roster(tuple(Member(name, keys[name].public) for name in names))
    session = Session(run="run", epoch=1, roster=roster)
    plan = RoundPlan(session=session, round=1, job=bytes(32), model=bytes(32))
    rounds = {name: MaskRound.begin(plan=plan, name=name, identity=keys[name]) for name in names}
    adverts = [each.advert() for each in rounds.values()]
    dealt = {name: each.share(adverts) for name, each in rounds.items()}
    for name, each in rounds.items():
        each.mask({other: dealt[other][name] for other in names if other != name})
    return rounds


@pytest.mark.parametrize("n", [4, 5])
def test_real_silos_keep_to_the_rule_of_the_model(tmp_path: Path, n: int) -> None:
    """Each list: who is on it consents if it is long enough, once, and reveals one share each."""
    threshold = least_threshold(n)
    for number, survivors in enumerate(subsets(frozenset(range(n)), least=1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rounds = real_rounds(folder, n)
        names = [NAMES[place] for place in sorted(survivors)]
        consents = {}
        for name, each in rounds.items():
            if len(survivors) >= threshold and name in names:
                consents[name] = each.consent(names)
                with pytest.raises(KeysError):
                    each.consent(names)
            else:
                with pytest.raises(KeysError):
                    each.consent(names)
        for name in consents:
            few = [consents[other] for other in list(consents)[: threshold - 1]]
            with pytest.raises(KeysError):
                rounds[name].reveal(few)
            said = read_reveal(rounds[name].reveal(consents.values()), adverts=rounds[name].adverts)
            assert set(said.shares) == set(NAMES[:n])
            assert said.survivors == tuple(names)


def update_of(seals: Any, silo: str) -> np.ndarray:
    found = [each["update"] for each in seals if each["silo"] == silo]
    return np.asarray(found[-1])


def forget(keys: Path) -> None:
    """A silo that sides with the server does not keep to its own memory of a round."""
    for path in keys.glob("*.masks"):
        path.unlink()
    (memory,) = keys.glob("*.memory")
    told = json.loads(memory.read_text())
    memory.write_text(json.dumps(told | {"unmasked": 0, "summed": ""}))


def test_disjoint_groups_with_one_silo_in_both_show_two_honest_updates_each(
    tmp_path: Path,
) -> None:
    """The silo that sides with the server takes part twice; each sum still has two others in it."""
    names = ("a", "b", "c", "d", "e")
    with malicious_server(tmp_path, experiment=job(federation__silos=5), names=names) as server:
        server.distribute(1)
        for members in (("a", "b", "e"), ("c", "d", "e")):
            forget(tmp_path / "keys" / "e")
            agreed = server.agree(1, members)
            uploads = server.train(agreed)
            _, reveals = server.unmask(agreed, members)
            opened = server.opened("e", server.total(agreed, uploads, reveals))
            assert opened is not None
            own = update_of(server.score.seals, "e")
            rest = 3 * opened * 0.5 - own
            both = sum(update_of(server.score.seals, name) for name in members[:2])
            assert np.allclose(rest, both, atol=1e-3)


def test_two_sums_from_one_model_are_not_over_different_silos(tmp_path: Path) -> None:
    """The server says that round 1 was void, and leaves silo d out of round 2."""
    with malicious_server(tmp_path) as server:
        server.distribute(1)
        sums = []
        for round_, members in ((1, ("a", "b", "c", "d")), (2, ("a", "b", "c"))):
            adverts = server.advert(round_, members)
            if refusals(adverts):
                return
            agreed = server.agree(round_, members)
            uploads = server.train(agreed)
            consents, reveals = server.unmask(agreed, members)
            if refusals(consents):
                return
            opened = server.opened("c", server.total(agreed, uploads, reveals))
            assert opened is not None
            sums.append(len(members))
        pytest.fail(f"sums of {sums} silos from one model")


def sum_from(server: MaliciousServer, round_: int, members: tuple[str, ...], change: float) -> bool:
    """Whether the server has a sum of these silos from the first model, moved by `change`."""
    told = dict.fromkeys(members, server.first + np.float32(change))
    if refusals(server.advert(round_, members, weights=told)):
        return False
    agreed = server.agree(round_, members, weights=told)
    uploads = server.train(agreed)
    consents, reveals = server.unmask(agreed, members)
    if refusals(consents) or refusals(reveals):
        return False
    return server.opened("d", server.total(agreed, uploads, reveals)) is not None


@pytest.mark.parametrize("changes", [(0.0, 1e-6), (0.0, 1e-6, 0.0)], ids=str)
def test_two_sums_are_not_from_public_models_that_are_as_good_as_the_same(
    tmp_path: Path, changes: tuple[float, ...]
) -> None:
    """Another digest was another model: what differed was one silo's update."""
    with malicious_server(
        tmp_path, experiment=job(rounds=9, encryption__rotate_every=None)
    ) as server:
        server.distribute(1)
        assert sum_from(server, 1, server.names, 0.0)
        for round_, change in enumerate(changes[1:], start=2):
            assert not sum_from(server, round_, ("b", "c", "d"), change)
        # The same silos from the same model, in a round that was void: nothing new is said.
        assert sum_from(server, 9, server.names, 0.0)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("colluding", [1, 2])
def test_no_honest_update_stands_alone_in_a_sum_by_its_weight(n: int, colluding: int) -> None:
    """A silo on the server's side claimed as many records as the largest one: the bound was gone.

    Others with few records count next to nothing then, and the sum was one silo's update.
    """
    if n < colluding + 2:
        pytest.skip("no masks withstand that")
    names = tuple(NAMES_LONG[:n])
    roster = Roster(tuple(Member(name, f"{place:064x}") for place, name in enumerate(names, 9)))
    session = Session(run="r", epoch=1, roster=roster)
    plan = RoundPlan(session=session, round=1, job=bytes(32), model=bytes(32), colluding=colluding)
    liars, honest = names[:colluding], names[colluding:]
    for claimed in (0, 1, 10, 10**6, 2**60):
        for few in range(len(honest)):
            held = dict.fromkeys(liars, claimed) | dict.fromkeys(honest, 10**6)
            held |= dict.fromkeys(honest[:few], 10)
            adverts = Adverts(
                plan,
                tuple(Advert(name, b"", b"", b"", held[name]) for name in names),
                (),
            )
            for left in itertools.combinations(honest, adverts.threshold - colluding):
                weights = sorted(adverts.weight(name) for name in left)
                assert weights[-1] <= 8 * sum(weights[:-1]) * (1 + 1e-9), (held, left)
            assert all(0 < adverts.weight(name) <= 1 for name in names)
