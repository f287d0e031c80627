"""Commands of an administrator: submit a job, watch it, end it, fetch what came of it.

`privet page` opens the server's live page.
"""

from __future__ import annotations

import json
import os
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.commands.options import AsJson, ExperimentFile, Settings, Unset, read_experiment
from privet.errors import PrivetError
from privet.files import write_whole

if TYPE_CHECKING:
    from privet.deployment.admin import AdminClient
    from privet.deployment.parties import AdminKit

Kit = Annotated[
    Path | None,
    typer.Option("--kit", help="Folder of the administrator's kit. [default: $PRIVET_KIT, else .]"),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or its beginning.")]


def submit(
    file: ExperimentFile,
    kit: Kit = None,
    settings: Settings = None,
    unset: Unset = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Fetch the results into this folder at the end.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="Days until the order ends, however far it is.")
    ] = 30,
    hours: Annotated[
        float | None,
        typer.Option(min=0.01, max=87600, help="The same in hours, for a shorter limit."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a job on the project's silos, and follow it."""
    from privet.server.app import check
    from privet.server.choosing import refuse_validation
    from privet.server.start import ordered
    from privet.tasks.defaults import completed
    from privet.tasks.files import data_folder

    whole = completed(read_experiment(file, settings, unset))
    if whole.line:
        typer.echo(whole.line, err=True)
    experiment = ordered(whole.experiment, data_dir=data_folder())
    # Here too, before it is sent: a mistake costs no job and no visit to the silos.
    check(experiment)
    refuse_validation(experiment)
    with _client(kit) as client:
        # To be told of another project or version in a line, and not by an order that is refused.
        client.greet()
        job = client.submit(experiment, days=days if hours is None else hours / 24)
        if as_json:
            typer.echo(json.dumps({"job": job}))
        else:
            typer.echo(f"Job {job}")
        if not detach:
            state = _follow(client, job, as_json=as_json)
            if out is not None and state["state"] in _WITH_RESULTS:
                _fetch(client, job, out)
            _demand_finished(state)


def status(kit: Kit = None, as_json: AsJson = False) -> None:
    """Show the project's silos and jobs."""
    with _client(kit) as client:
        project = client.status()
    if as_json:
        typer.echo(json.dumps(project))
    else:
        _show(project)


def logs(
    job: JobName,
    kit: Kit = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
) -> None:
    """Print a job's log."""
    from privet.deployment.admin import OVER

    with _client(kit) as client:
        name, start = _whole(client, job), 0
        while True:
            # Asked before the log is: what is written last is then in what is read.
            over = client.job(name)["state"] in OVER
            new = client.log_bytes(name, start=start)
            typer.echo(new.decode(errors="replace"), nl=False)
            start += len(new)
            if not follow or over:
                return
            time.sleep(1)


def cancel(job: JobName, kit: Kit = None) -> None:
    """End a job; what it has reached stays on the server."""
    with _client(kit) as client:
        typer.echo(f"Job {client.cancel(_whole(client, job))['id']} is cancelled")


jobs_cli = typer.Typer(no_args_is_help=True, help="Jobs that are over.")


@jobs_cli.command()
def remove(job: JobName, kit: Kit = None) -> None:
    """Delete a job that is over, with its run, from the server."""
    with _client(kit) as client:
        name = _whole(client, job)
        client.remove(name)
    typer.echo(f"Job {name} is removed")


def watch(job: JobName, kit: Kit = None, as_json: AsJson = False) -> None:
    """Follow a job to its end."""
    with _client(kit) as client:
        _demand_finished(_follow(client, _whole(client, job), as_json=as_json))


def fetch(
    job: JobName,
    kit: Kit = None,
    out: Annotated[Path | None, typer.Option(help="Folder. [default: runs/<job>]")] = None,
) -> None:
    """Bring a job's history, summary and model here, and write its report."""
    with _client(kit) as client:
        name = _whole(client, job)
        _fetch(client, name, out or Path("runs") / name)


def _client(kit: Path | None) -> AdminClient:
    from privet.deployment.admin import AdminClient

    return AdminClient(_kit(kit))


def _kit(folder: Path | None) -> AdminKit:
    from privet.deployment.parties import AdminKit

    return AdminKit.from_folder(folder or Path(os.environ.get("PRIVET_KIT", ".")))


def _whole(client: AdminClient, job: str) -> str:
    """The id that begins like `job`; PrivetError for none or several."""
    found = [each["id"] for each in client.status()["jobs"] if each["id"].startswith(job)]
    if len(found) != 1:
        raise PrivetError(f"{len(found)} jobs begin with {job!r}" if found else f"no job {job!r}")
    return str(found[0])


def _follow(client: AdminClient, job: str, *, as_json: bool) -> dict[str, Any]:
    """Show a job to its end; how it ended."""
    from privet.commands.progress import choose_mode, progress
    from privet.deployment.admin import follow

    rounds = client.job(job)["rounds"]
    mode = choose_mode(quiet=False, as_json=as_json)
    with progress(mode, rounds=rounds) as watch:
        state = follow(client, job, watch=watch, say=lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(json.dumps(state))
    elif state["state"] in _WITH_RESULTS:
        typer.echo(f"Job {job} is {state['state']}. Results: privet fetch {job}")
    return state


_WITH_RESULTS = ("finished", "stopped early")


def _demand_finished(state: dict[str, Any]) -> None:
    if state["state"] != "finished":
        # A job that failed is an error of this command, for scripts that wait for it.
        raise PrivetError(f"job {state['id']} {state['state']}: {state['detail']}".rstrip(": "))


def _fetch(client: AdminClient, job: str, out: Path) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from privet.reports.run import write_report

    state = client.job(job)
    if not state["files"]:
        raise PrivetError(f"job {job} has nothing to fetch yet: it is {state['state']}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrivetError(f"--out {out}: it cannot be a folder ({error.strerror})") from None
    _demand_own(out, job)
    write_whole(out / "job.json", (json.dumps(state, indent=2) + "\n").encode())
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bars:
        for name in state["files"]:
            bar = bars.add_task(name, total=None)
            client.fetch(
                job,
                name,
                out / name,
                progress=lambda have, total, bar=bar: bars.update(  # type: ignore[misc]
                    bar, completed=have, total=total
                ),
            )
    typer.echo(f"Report: {write_report(out)}")


def _demand_own(out: Path, job: str) -> None:
    """PrivetError for a folder with links in it, or with another job's results."""
    for path in out.iterdir():
        if path.is_symlink():
            raise PrivetError(f"{path} is a link: nothing is written through links")
    try:
        there = json.loads((out / "job.json").read_bytes())["id"]
    except (OSError, ValueError, TypeError, KeyError):
        return
    if there != job:
        raise PrivetError(f"--out {out}: results of job {there} lie there; name another folder")


def _show(project: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    silos = Table(box=None, pad_edge=False)
    for column in ("silo", "", "works on"):
        silos.add_column(column)
    for silo in project["silos"]:
        state = "online" if silo["online"] else "offline"
        about = silo["working_on"] or silo.get("refused") or ""
        silos.add_row(escape(silo["name"]), state, escape(about))
    console.print(silos)
    for line in _troubles(project):
        console.print(escape(line), style="red")
    if not project["jobs"]:
        return
    console.print()
    jobs = Table(box=None, pad_edge=False)
    for column in ("job", "by", "task", "round", "state", ""):
        jobs.add_column(column)
    for job in project["jobs"]:
        rounds = f"{job['round']}/{job['rounds']}"
        row = (job["id"], job["requester"], job["task"], rounds, job["state"], job["detail"])
        # Whatever somebody signed: also what no experiment could have for a task.
        jobs.add_row(*(escape(str(cell)) for cell in row))
    console.print(jobs)


def _troubles(project: dict[str, Any]) -> Iterator[str]:
    """What an operator should look at, a line each."""
    for part, fault in project.get("health", {}).items():
        if fault is not None:
            yield f"server, {part}: {fault}"
    soon: dict[str, list[str]] = {}
    for name, when in project.get("ending", {}).items():
        soon.setdefault(when, []).append(name)
    for when, names in soon.items():
        what = "the server's certificate and " * ("certificate" in names)
        members = [name for name in names if name != "certificate"]
        yield (
            f"{when}: {what}the membership of {', '.join(members)}"
            if members
            else (f"{when}: the server's certificate")
        )
    for name, why in project.get("broken", {}).items():
        yield f"set aside: state/{name} ({why})"


def page(
    kit: Kit = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the link and open no browser.")
    ] = False,
) -> None:
    """Open the server's live page: silos, jobs and their curves. The link works once."""
    from privet.deployment.admin import AdminClient

    config = _kit(kit)
    with AdminClient(config) as client:
        link = client.page()
    typer.echo(link)
    typer.echo(
        f"Good once, within two minutes. The browser must trust {config.ca}; "
        "the page closes after an hour.",
        err=True,
    )
    if not no_open:
        webbrowser.open(link)
