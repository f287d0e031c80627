"""Numbers as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise

NOTHING = "–"
_LONGEST = 16
"""Digits that a bound may have before it becomes 1.24e30."""


def bound(value: float | None) -> str:
    """An upper bound with three significant digits, rounded up: what is printed stays true.

    >>> bound(3.981), bound(0.01234), bound(1.2341e30), bound(math.inf), bound(None)
    ('3.99', '0.0124', '1.24e30', 'infinite', 'unknown')
    """
    if value is None or math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite"
    # The digits that a person would write: in binary, 0.1 is a little more, and would become 0.101.
    exact = Decimal(repr(value))
    if not exact:
        return "0"
    power = exact.adjusted()
    if power < _LONGEST:
        return f"{_rounded(exact, min(power - 2, 0), ROUND_CEILING):f}"
    return scientific(_rounded(exact, power - 2, ROUND_CEILING))


def left(value: float | None) -> str:
    """What is left of a budget, with three decimals at most, rounded down: it is there.

    >>> left(4.9999), left(1.2399e30), left(math.inf), left(None)
    ('4.999', '1.23e30', 'no limit', '–')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "no limit"
    exact = Decimal(repr(value))
    if exact.adjusted() < _LONGEST:
        return f"{_rounded(exact, -3, ROUND_FLOOR).normalize():f}"
    return scientific(_rounded(exact, exact.adjusted() - 2, ROUND_FLOOR))


def _rounded(exact: Decimal, power: int, way: str) -> Decimal:
    """To a multiple of a power of ten."""
    return exact.quantize(Decimal(1).scaleb(power), rounding=way)


def decimal(value: float | None, *, digits: int = 3) -> str:
    """A plain figure; a number too large or too small for `digits` decimals becomes 1.2e+09."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite"
    if value and not 10**-digits <= abs(value) < 1e6:
        return scientific(value)
    return f"{value:,.{digits}f}"


def scientific(value: float | Decimal | None) -> str:
    """As few characters as possible without losing the size.

    >>> scientific(1e-5), scientific(0.001), scientific(2.5e9)
    ('1e-5', '0.001', '2.5e9')
    """
    if value is None:
        return NOTHING
    mantissa, mark, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


def size(count: float) -> str:
    """Bytes with a decimal unit.

    >>> size(999), size(12_345_678)
    ('999 B', '12.3 MB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count) // 3), 5)
    return f"{count / 1000**power:.3g} {'kMGTP'[power - 1]}B"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and hours once there are some.

    >>> duration(0.5), duration(75.4), duration(7260)
    ('0.5 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    # Rounded before it is divided, or 119.6 would become 1 min 60 s.
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def spans(numbers: Iterable[int], *, most: int = 100) -> str:
    """Whole numbers with runs joined, at most `most` of them written out.

    >>> spans([7, 1, 3, 4, 5]), spans([1, 3, 5, 7], most=2)
    ('1, 3–5, 7', '1, 3 …')
    """
    ordered = sorted(set(numbers))
    if not ordered:
        return NOTHING
    breaks = [(low, high) for low, high in pairwise(ordered) if high != low + 1]
    starts = [ordered[0], *(high for _, high in breaks)]
    ends = [*(low for low, _ in breaks), ordered[-1]]
    told = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(told[:most]) + (" …" if len(told) > most else "")


def in_rounds(numbers: Iterable[int], *, most: int = 8) -> str:
    """
    >>> in_rounds([4]), in_rounds([2, 3, 4, 9]), in_rounds([0])
    ('round 4', 'rounds 2–4, 9', 'before round 1')
    """
    found = set(numbers)
    if found == {0}:
        return "before round 1"
    return f"{'round' if len(found) == 1 else 'rounds'} {spans(found, most=most)}"


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "silo"), counted(1200, "record")
    ('1 silo', '1,200 records')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str], *, most: int = 6) -> str:
    """Names, at most `most` of them and each at most 60 characters.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b', 'a, b and 2 more')
    """
    more = len(names) - most
    shown = ", ".join(shortened(name, 60) for name in names[:most])
    return shown + (f" and {more:,} more" if more > 0 else "")


def shortened(text: str, length: int) -> str:
    """
    >>> shortened("silo", 10), shortened("silo-12345", 4)
    ('silo', 'silo …')
    """
    return text if len(text) <= length else f"{text[:length]} …"


def plus_minus(text: str) -> str:
    """
    >>> plus_minus("0.91 +- 0.02")
    '0.91 ± 0.02'
    """
    return text.replace("+-", "±")
