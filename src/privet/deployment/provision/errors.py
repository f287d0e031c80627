"""What stands in the way of a project's kits, said in one line."""

from __future__ import annotations

from privet.errors import PrivetError


class ProvisionError(PrivetError):
    """A mistake in the project file, a key that is missing, a folder that cannot be written."""
