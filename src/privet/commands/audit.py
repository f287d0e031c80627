"""`privet audit`: does what runs and ledgers say hold?"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.errors import PrivetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from privet.audits import Report
    from privet.audits.claims import Claim
    from privet.audits.deep.record import DeepOptions

REPORT = "audit.json"
STDOUT = Path("-")
_COLOURS = {"PASS": "green", "FAIL": "bold red", "UNKNOWN": "yellow"}
_FEW = 3
"""Subjects up to which each has a row of its own for what it passes."""


Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Run folders, folders of them (a sweep), ledgers, exports of ledgers, and the "
        "signed list of a project's parties.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help=f"Write {REPORT} into this folder, and a page of it, audit.html and audit.pdf.",
        show_default=False,
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(help="Write the report to this file; - for standard output.", show_default=False),
]
Delta = Annotated[float, typer.Option(help="Delta where no run names one.", min=1e-12, max=0.5)]
Policy = Annotated[
    Path | None, typer.Option(help="Judge by this policy. [default: each run's own]")
]
Anchors = Annotated[
    list[str] | None,
    typer.Option(
        "--anchor",
        "--public-key",
        metavar="[NAME=]HEX",
        help="A public key that you have from elsewhere than these files: of a silo, NAME=HEX; of "
        "a project, for its signed list of parties, HEX; of a simulation, simulation=HEX.",
    ),
]
Verify = Annotated[
    Path | None,
    typer.Option(help="Audit again what this report is about; is it still the same?"),
]
DeepAudit = Annotated[
    bool, typer.Option("--deep", help="Train each run's dearest silo many times; attack that.")
]
Models = Annotated[int | None, typer.Option(help="With --deep: how many models.  [default: 1000]")]
Seed = Annotated[
    int | None, typer.Option(help="With --deep: of all that is random there.  [default: 0]")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Exit 1 instead of 0 when any claim that PASS leans on is UNKNOWN."
    ),
]


def audit(
    paths: Paths = None,
    out: Out = None,
    json: Json = None,
    delta: Delta = 1e-5,
    policy: Policy = None,
    anchor: Anchors = None,
    verify: Verify = None,
    deep: DeepAudit = False,
    models: Models = None,
    seed: Seed = None,
    strict: Strict = False,
) -> None:
    """Check what runs and ledgers claim: the record, the sums, budgets, what left.

    Claims are PASS, FAIL, or UNKNOWN where what was given does not decide them. The verdict is PASS
    (exit 0), FAIL (1), INCOMPLETE (3: something that epsilon rests on is UNKNOWN), or UNANCHORED
    (4: nobody vouched for the keys). The first line says why. A run's task is code, and is loaded.
    """
    # In the function, as in every command: to print help must not wait for torch.
    from privet import api
    from privet.audits.report import to_json

    # A report says by itself what was audited and how; anything else beside it would contradict it.
    if verify is not None:
        if paths or out or json or deep:
            raise PrivetError("--verify takes a report and nothing else")
        _verify(verify)
        return
    if not paths:
        raise PrivetError("privet audit needs a run folder, a ledger or an export")
    if out and json:
        raise PrivetError("--out and --json name two places for one report; keep one")
    options = _deep(deep, models, seed)
    file = out / REPORT if out else json if json != STDOUT else None
    keys, anchors = _keys(anchor or [])
    with _bar(options) as watch:
        report = api.audit(
            paths,
            # Paths in a report are relative to it, so that files and report can be moved together.
            base=file.parent if file else Path(),
            delta=delta,
            policy=policy,
            keys=keys,
            anchors=anchors,
            deep=options,
            watch=watch,
        )
    if json == STDOUT:
        typer.echo(to_json(report), nl=False)
    else:
        _show(report)
    if file:
        _write(report, file, pages=out is not None)
    _exit(report, strict=strict)


def _exit(report: Report, *, strict: bool = False) -> None:
    from privet.audits.claims import EXIT_CODES, undecided

    code = EXIT_CODES[report.verdict]
    raise typer.Exit(1 if strict and code == 0 and undecided(report.claims) else code)


def _write(report: Report, file: Path, *, pages: bool) -> None:
    from privet.audits.report import write

    write(report, file)
    typer.echo(f"Report: {file}")
    if pages:
        _write_pages(file)


def _write_pages(file: Path) -> None:
    from privet.reports.audit import write_pages

    pages = write_pages(file)
    typer.echo(f"  page: {pages.html}")
    typer.echo(f"  print: {pages.pdf}" if pages.pdf else f"  no PDF: {pages.no_pdf}")


def _verify(file: Path) -> None:
    from privet.audits import verify_report
    from privet.audits.report import read

    before = read(file)
    with _bar(before.options.deep) as watch:
        found = [*verify_report(file, watch=watch), *_changed_page(file)]
    if not found:
        typer.echo(f"{file}: an audit of the same files gives the same report, {before.verdict}.")
        _exit(before)
    for place in found[:_MOST_DIFFERENCES]:
        typer.secho(f"{file}: {place} is not what an audit gives now", fg="red")
    if len(found) > _MOST_DIFFERENCES:
        typer.secho(f"and {len(found) - _MOST_DIFFERENCES} more differences", fg="red")
    raise typer.Exit(1)


def _changed_page(file: Path) -> Iterator[str]:
    """The page beside a report, if it is not the one that is made of it."""
    from privet.reports.audit import PAGE, page_of

    page = file.with_name(PAGE)
    if page.exists() and page.read_bytes() != page_of(file):
        yield f"the page {page.name} beside it"


_MOST_DIFFERENCES = 20


def _deep(deep: bool, models: int | None, seed: int | None) -> DeepOptions | None:
    from privet.audits.deep.record import FEWEST, DeepOptions

    if not deep:
        if models is not None or seed is not None:
            raise PrivetError("--models and --seed are for --deep")
        return None
    if models is not None and models < FEWEST:
        raise PrivetError(f"--models {models}: a deep audit needs {FEWEST} or more")
    if seed is not None and not 0 <= seed < 2**63:
        raise PrivetError(f"--seed {seed}: it must lie in [0, 2**63)")
    standard = DeepOptions()
    return DeepOptions(
        standard.models if models is None else models, standard.seed if seed is None else seed
    )


@contextmanager
def _bar(deep: DeepOptions | None) -> Iterator[Callable[[str, int], None]]:
    """On a terminal: how many models of which run are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    if deep is None or not console.is_terminal:
        yield lambda _run, _done: None
        return
    columns = TextColumn("models"), MofNCompleteColumn(), BarColumn(bar_width=None)
    run = TextColumn("{task.description}", markup=False)
    with Progress(*columns, run, Left(compact=True), console=console, transient=True) as bar:
        task = bar.add_task("", total=deep.models)
        yield lambda run, done: bar.update(task, completed=done, description=run)


def _keys(texts: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Keys by name, and those without one."""
    named: dict[str, str] = {}
    anchors: list[str] = []
    for text in texts:
        name, equals, key = text.rpartition("=")
        # Keys are compared as texts, and people copy them in capitals and with a line's end.
        digits = key.strip().lower()
        if bool(equals) != bool(name) or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise PrivetError(f"--anchor {text}: expected [NAME=]HEX with 64 hexadecimal digits")
        if name:
            named[name] = digits
        else:
            anchors.append(digits)
    return named, anchors


def _show(report: Report) -> None:
    from rich.console import Console

    typer.echo(report.headline)
    console = Console()
    console.print(_table(report.claims))
    counts = Counter[str](claim.verdict for claim in report.claims)
    verdicts = ", ".join(f"{counts[each]} {each}" for each in _COLOURS if counts[each])
    looked = Counter(claim.id for claim in report.claims)
    typer.echo(
        f"{report.verdict}: {verdicts}. Looked at {len(report.files)} files: runs "
        f"{looked['record.readable']}, ledgers and exports {looked['record.chain']}."
    )


def _table(claims: Sequence[Claim]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("verdict", "claim", "of", "says"):
        table.add_column(title, overflow="fold", no_wrap=title == "verdict")
    for verdict, id_, subject, said in _rows(claims):
        style = _COLOURS[verdict]
        # Text, not markup: names and reasons come from silos.
        table.add_row(Text(verdict, style), Text(id_), Text(subject), Text(said))
    return table


def _rows(claims: Sequence[Claim]) -> Iterator[tuple[str, str, str, str]]:
    """What fails, each by itself; of the rest one row for each claim where subjects are many."""
    for claim in claims:
        if claim.verdict == "FAIL":
            yield _row(claim)
    rest: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim.verdict != "FAIL":
            rest.setdefault((claim.id, claim.verdict), []).append(claim)
    for (id_, verdict), same in rest.items():
        if len(same) <= _FEW:
            yield from map(_row, same)
        else:
            yield verdict, id_, f"{len(same)} subjects", _row(same[0])[3]


def _row(claim: Claim) -> tuple[str, str, str, str]:
    # Why it does not hold says more here than what should; the report has all of it.
    said = claim.statement if claim.verdict == "PASS" else claim.evidence[0]
    return claim.verdict, claim.id, claim.subject, said
