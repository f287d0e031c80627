"""Keep the notices of libraries that do not concern the reader of our output away from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untouched_root_logger() -> Iterator[None]:
    """Undo what an import does to the root logger.

    Importing Opacus calls `logging.basicConfig`, after which every library's messages would be
    printed a second time, through a handler that nobody asked for.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def no_absl_warnings() -> Iterator[None]:
    """Drop what is logged through absl below ERROR.

    dp-accounting's RDP warns there about every order that did not converge; it leaves such an
    order out, which can only raise its epsilon.
    """
    absl = logging.getLogger("absl")
    absl.addFilter(_is_error)
    try:
        yield
    finally:
        absl.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
