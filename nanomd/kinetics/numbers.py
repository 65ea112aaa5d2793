"""Numbers as a reader wants them: as many digits as the interval supports."""

from __future__ import annotations

import math

NO_VALUE = "n/a"


def format_number(value: float, digits: int = 3) -> str:
    """Write one number to some significant digits, without an exponent between 1e-3 and 1e6."""
    if math.isnan(value):
        return NO_VALUE
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    magnitude = _exponent(value)
    if magnitude < -3 or magnitude >= 6:
        return _scientific(value, max(digits - 1, 0))
    return f"{value:.{max(digits - 1 - magnitude, 0)}f}"


def format_count(value: int) -> str:
    """Write a count with thousands set apart by narrow no-break spaces: 4 000 000."""
    return f"{value:,}".replace(",", "\u202f")


def format_interval(value: float, low: float, high: float) -> tuple[str, str]:
    """Write an estimate and its interval with the same number of decimals.

    Half the width of the interval keeps two significant digits, and no number more than three.

    Returns
    -------
    value, interval : str
        Such as ``"1.23"`` and ``"[1.10, 1.36]"``; the interval is ``""`` where both ends are undefined.
    """
    ends = [end for end in (low, high) if math.isfinite(end)]
    largest = max((abs(number) for number in (value, *ends) if math.isfinite(number)), default=0.0)
    if not ends or largest == 0.0:
        text = format_number(value)
        zero = f"[{format_number(low)}, {format_number(high)}]" if ends else ""
        return text, zero
    half_width = (ends[-1] - ends[0]) / 2 if len(ends) == 2 else 0.0
    decimals = 2 - _exponent(largest)
    if half_width > 0:
        decimals = min(1 - _exponent(half_width), decimals)
    decimals = max(decimals, 1 - _exponent(largest))
    if _exponent(largest) < -3 or _exponent(largest) >= 6:
        digits = 1
        return _scientific(value, digits), f"[{_scientific(low, digits)}, {_scientific(high, digits)}]"
    decimals = min(max(decimals, 0), 4)
    return _fixed(value, decimals), f"[{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _fixed(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else format_number(value)


def _scientific(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return format_number(value)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
