"""What an experiment file may name: `privet tasks`, `privet strategies`, `privet task hash`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privet.errors import PrivetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privet.client.task_code import CodeCover

task_cli = typer.Typer(name="task", no_args_is_help=True, help="Tasks of someone's own.")


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="Show models, options and an example of this one.")
    ] = None,
) -> None:
    """List the built-in tasks, or show one."""
    from privet.tasks.registry import TASKS

    if name is not None:
        for line in _about_task(name):
            typer.echo(line)
        return
    _list({name: task.summary for name, task in TASKS.items()})
    typer.echo("\nprivet tasks NAME shows models, options and an example.")
    typer.echo('Your own: task = "package.module:Class" (see examples/custom_task).')


def _about_task(name: str) -> Iterator[str]:
    """A task's models, options and an experiment to begin with."""
    from privet.tasks.registry import TASKS

    options, entry = list(_options(name)), TASKS.get(name)
    yield f"{name}: {entry.summary if entry else 'a task of your own'}"
    if entry is not None:
        yield ""
        yield f"model    {', '.join(entry.models)} (the first unless another is set)"
    yield ""
    if options:
        yield "[data]"
        widths = [max(len(row[place]) for row in options) for place in (0, 1)]
        for key, default, meaning in options:
            yield f"  {key:<{widths[0]}}  {default:<{widths[1]}}  {meaning}".rstrip()
    else:
        yield "It takes no options under [data]."
    if entry is not None:
        yield from ("", "An experiment to begin with:", "")
        yield from (f"    {line}".rstrip() for line in entry.example.splitlines())


def _options(name: str) -> Iterator[tuple[str, str, str]]:
    """The keys that a task takes under [data], with their defaults and what they are."""
    from privet.commands import reference
    from privet.tasks.registry import options_of

    described = {"table": reference.TABLE, "images": reference.IMAGES, "text": reference.TEXT}
    if name in described:
        for key in reference.every_key():
            if key.file == described[name]:
                yield (
                    key.name.removeprefix("data."),
                    key.default,
                    key.meaning.split(". ")[0].rstrip("."),
                )
    else:
        yield from ((key, default, "") for key, default in options_of(name))


def explain(
    key: Annotated[
        str | None,
        typer.Argument(help="A key, whole (privacy.epsilon) or its end. [default: list them]"),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page of all keys.")
    ] = False,
) -> None:
    """Say what a key of an experiment, a policy or a party's file is, may be and does."""
    from privet.commands import reference

    if markdown:
        typer.echo(reference.markdown(reference.every_key()), nl=False)
    elif key is None:
        for line in reference.listing(reference.every_key()):
            typer.echo(line)
    else:
        for line in reference.told(reference.found(key)):
            typer.echo(line)


def strategies() -> None:
    """List the aggregation strategies with their options."""
    from privet.strategies.registry import STRATEGIES

    _list({name: entry.summary for name, entry in STRATEGIES.items()})


def _list(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        typer.echo(f"{name:<{width}}  {line}")


@task_cli.command()
def hash(
    what: Annotated[
        str, typer.Argument(metavar="TASK", help='"package.module:Class", a folder or a file.')
    ],
) -> None:
    """Print the hash by which a policy approves a task's code, and what it covers."""
    from privet.client.task_code import code_cover, cover

    found = code_cover(what) if ":" in what else cover(Path(what)) if Path(what).exists() else None
    if found is None:
        raise PrivetError(f"{what!r} is neither a task of someone's own nor a folder or file here")
    typer.echo(found.hash)
    _show(found, indent="  ")


def _show(cover: CodeCover, *, indent: str) -> None:
    typer.echo(f"{indent}of {cover.root}")
    for name, digest in sorted(cover.files.items()):
        typer.echo(f"{indent}  file    {digest[:16]}  {name or cover.root.name}")
    for name, target in sorted(cover.links.items()):
        typer.echo(f"{indent}  link    {name} -> {target}")
    for name, version in sorted(cover.versions.items()):
        typer.echo(f"{indent}  needs   {name} {version}")
    for name, module in sorted(cover.modules.items()):
        typer.echo(f"{indent}  module  {name}{'' if module else ' (not found here)'}")
        if module:
            _show(module, indent=f"{indent}    ")
