"""Commands about the policy: write a first one, say what one means."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from privet.files import write_new

policy_cli = typer.Typer(
    name="policy",
    no_args_is_help=True,
    help="What the holder of the data allows.",
)

PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Policy file (TOML).")]


@policy_cli.command()
def check(file: PolicyFile) -> None:
    """Say in plain words what a policy allows; exit 2 when it has a mistake."""
    from privet.privacy.policy import Policy, explain

    for line in explain(Policy.from_file(file)):
        typer.echo(_wrapped(line))


@policy_cli.command()
def init(file: PolicyFile) -> None:
    """Write a commented policy to start from; never overwrites a file."""
    from privet.privacy.policy import PolicyError, starting_policy

    try:
        # As any text file of its owner, less what the umask takes: there is no secret in it.
        write_new(file, starting_policy().encode(), mode=0o666)
    except FileExistsError:
        raise PolicyError(f"{file} exists; choose another name, or move it away first") from None
    except OSError as error:
        raise PolicyError(f"cannot write {file}: {error.strerror}") from None
    typer.echo(f"Wrote {file}. It lets nothing run yet: edit it, then: privet policy check {file}")


def _wrapped(line: str) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    return textwrap.fill(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
