"""An audit as one HTML page that runs nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from privet.privacy.audit.persons import TIMES
from privet.simulations.audit.page.accountants import accountants
from privet.simulations.audit.page.canaries import canaries, runs_with_canaries
from privet.simulations.audit.page.deep import rocs_of_deep
from privet.simulations.audit.page.drawing import WIDTH
from privet.simulations.audit.page.facts import Files
from privet.simulations.audit.page.families import FEW, families
from privet.simulations.audit.page.left import kinds
from privet.simulations.audit.page.opening import facts
from privet.simulations.audit.page.recipes import recipes
from privet.simulations.audit.page.roc import roc_picture
from privet.simulations.audit.page.spent import balances, dearest, deltas, person_cells
from privet.simulations.audit.page.verdict import counts, in_one_sentence
from privet.simulations.audit.report import Persons, Report
from privet.simulations.pages.formatting import listed
from privet.simulations.pages.page import Page

_HERE = Path(__file__).parent
_PAGE = Page(
    _HERE / "audit.html.jinja",
    styles=(_HERE / "audit.css",),
    filters={"person": person_cells},
)

_MOST_ROCS = 12
_NOT_COVERED = (
    "Whether the mechanism that ran is the one in the entry, where there are no canaries; and "
    "wrong gradients inside of a model's layers, which canaries do not see.",
    "Records that two silos share: their digests are sealed with each silo's key.",
    "A ledger that its silo wrote anew with its own key, unless an earlier export was given.",
    "Changes to what no ledger vouches for, such as the accuracy of a round before the last.",
    "Messages of enrolment, keys and masks, which are not counted among what left.",
    "What the model says of everybody, whether or not they are among the records: that is what it "
    "was trained for.",
)


def render(report: Report, *, base: Path, digest: str) -> str:
    """The whole page of the report in `base`, whose file has the SHA-256 `digest`."""
    files = Files(report, base)
    seen = canaries(files)
    rocs = [*(run.roc for run in seen), *rocs_of_deep(report)]
    return _PAGE.render(
        style=_foot(report.verdict, digest),
        report=report,
        digest=digest,
        subjects=listed(min(list(report.paths), [*files.runs], key=len) or ["nothing"], most=3),
        moment=_moment(report.audited_at),
        sentence=in_one_sentence(report),
        counts=counts(report),
        failed=[claim for claim in report.claims if claim.verdict == "FAIL"],
        facts=facts(files),
        balances=balances(files),
        families=families(report.claims),
        few=FEW,
        sums=dearest(report.sums),
        deltas=deltas(report),
        persons=sorted(report.persons, key=_most_of_somebody),
        times=TIMES,
        accountants=accountants(report),
        kinds=kinds(report.leaks),
        seen=seen,
        unseen=len(runs_with_canaries(report)) - len(seen),
        rocs=[*map(roc_picture, rocs[:_MOST_ROCS])],
        more_rocs=max(0, len(rocs) - _MOST_ROCS),
        width=WIDTH,
        not_covered=_NOT_COVERED,
        recipes=recipes(report),
    )


def _most_of_somebody(persons: Persons) -> float:
    found = [*persons.in_one_silo, *persons.in_silos]
    return -max((each.epsilon for each in found), default=0.0)


def _foot(verdict: str, digest: str) -> str:
    """What stands below every printed page; both texts are of a few known characters."""
    return f'@page {{ @bottom-left {{ content: "{verdict} · audit.json {digest}" }} }}'


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text
