"""An audit as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from privet.privacy.audit.persons import TIMES
from privet.simulations import report as run_report
from privet.simulations.audit.page.canaries import canaries, runs_with_canaries
from privet.simulations.audit.page.deep import rocs_of_deep
from privet.simulations.audit.page.drawing import WIDTH
from privet.simulations.audit.page.facts import Files
from privet.simulations.audit.page.families import FEW, families
from privet.simulations.audit.page.left import kinds
from privet.simulations.audit.page.opening import facts
from privet.simulations.audit.page.roc import roc_picture
from privet.simulations.audit.page.spent import (
    accountants,
    balances,
    dearest,
    deltas,
    person_cells,
    recipes,
    rounded_down,
)
from privet.simulations.audit.page.verdict import counts, in_one_sentence
from privet.simulations.audit.report import Persons, Report
from privet.simulations.report.formatting import (
    bound,
    counted,
    decimal,
    listed,
    scientific,
    shortened,
    size,
)

_HERE = Path(__file__).parent
_RUN_REPORT = Path(run_report.__file__).parent

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
    """The whole page of the report in `base`, whose file has the SHA-256 `digest`.

    Every text of the report is escaped. A content security policy allows the page's own style by
    its hash and nothing else, so that markup which slipped through could neither run nor load
    anything.
    """
    files = Files(report, base)
    seen = canaries(files)
    rocs = [*(run.roc for run in seen), *rocs_of_deep(report)]
    style = _style(report, digest)
    return (
        _environment()
        .get_template("audit.html.jinja")
        .render(
            report=report,
            digest=digest,
            style=Markup(style),  # noqa: S704 - our own files, a verdict and hexadecimal digits
            policy=_policy(style),
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
    )


def _most_of_somebody(persons: Persons) -> float:
    found = [*persons.in_one_silo, *persons.in_silos]
    return -max((each.epsilon for each in found), default=0.0)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (bound, counted, decimal, listed, scientific, shortened, size)
    environment.filters |= {each.__name__: each for each in filters}
    environment.filters |= {"left": rounded_down, "person": person_cells}
    return environment


def _style(report: Report, digest: str) -> str:
    """The run report's look, what an audit has besides, and the foot of a printed page."""
    looks = (_RUN_REPORT / "report.css", _HERE / "audit.css")
    foot = f'@page {{ @bottom-left {{ content: "{report.verdict} · audit.json {digest}" }} }}'
    return "\n".join([*(path.read_text(encoding="utf-8") for path in looks), foot])


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text
