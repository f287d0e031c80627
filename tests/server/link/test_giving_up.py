"""A silo that sends nothing usable is asked no more after a while, and the history says so."""

from __future__ import annotations


