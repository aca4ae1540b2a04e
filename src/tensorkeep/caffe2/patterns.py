"""Checkpoint names: a printf pattern filled with the iteration, safely.

C's printf reads whatever the pattern asks for: `%s` crashes the process and `%d` takes half of a
64-bit iteration. Here one integer conversion is allowed, and it always gets the whole number.
Facts: caffe2/operators/load_save_op.h (CheckpointOp, FormatString); C17 7.21.6.1 for printf.
"""

from __future__ import annotations

import re
from numbers import Integral

from tensorkeep.errors import ArgumentError

_CONVERSION = re.compile(
    r"%(?:1\$)?(?P<flags>[-+ 0#]*)(?P<width>[1-9][0-9]?)?(?P<digits>\.[0-9]{0,2})?"
    r"(?:ll|[lLqjzt])?(?P<kind>[diuxXo])"
)
_WORDS = 1 << 64


def format_string(pattern: str, iteration: int) -> str:
    """Fill a printf pattern with an iteration.

    Args:
        pattern: text with at most one of %d %i %u %x %X %o, which may have the flags `-+ 0#`, a
            width and a precision up to 99, and a length (l, ll, L, j, z, t, q); %% is a percent
            sign.
        iteration: a 64-bit integer; %u %x %X %o take its two's complement, as C does.

    Raises:
        ArgumentError: the pattern holds anything else that starts with a percent sign, or the
            iteration is no 64-bit integer.

    >>> format_string("run/step_%05d.minidb", 1200), format_string("%d", 2**33 + 10)
    ('run/step_01200.minidb', '8589934602')
    """
    if not isinstance(iteration, Integral) or not -_WORDS <= 2 * iteration < _WORDS:
        raise ArgumentError(f"the iteration {iteration!r} is no 64-bit integer")
    parts: list[str] = []
    at = conversions = 0
    while (percent := pattern.find("%", at)) >= 0:
        parts.append(pattern[at:percent])
        if pattern.startswith("%%", percent):
            parts.append("%")
            at = percent + 2
            continue
        found = _CONVERSION.match(pattern, percent)
        if found is None:
            problem = f"{pattern[percent : percent + 2]!r} is no integer conversion"
            raise _refused(pattern, problem)
        conversions += 1
        if conversions > 1:
            raise _refused(pattern, "there are two conversions and one number")
        parts.append(_convert(found, int(iteration)))
        at = found.end()
    return "".join(parts) + pattern[at:]


def _convert(found: re.Match[str], value: int) -> str:
    flags, kind, precise = found["flags"], found["kind"], found["digits"] is not None
    width, digits = int(found["width"] or 0), int((found["digits"] or "")[1:] or 0)
    if kind not in "di":
        value %= _WORDS
    sign = "-" if value < 0 else ""
    if kind in "di" and value >= 0:
        sign = "+" if "+" in flags else " " if " " in flags else ""
    number = format(abs(value), {"i": "d", "u": "d"}.get(kind, kind)).zfill(digits)
    if precise and not digits and not value:  # C writes no digits then
        number = ""
    if "#" in flags and kind == "o" and not number.startswith("0"):
        number = "0" + number
    if "#" in flags and kind in "xX" and value:
        sign = "0" + kind
    if "-" in flags:
        return (sign + number).ljust(width)
    if "0" in flags and not precise:  # C ignores the flag where there is a precision
        return sign + number.zfill(width - len(sign))
    return (sign + number).rjust(width)


def _refused(pattern: str, problem: str) -> ArgumentError:
    cure = "Use one %d, such as in step_%05d.minidb, and %% for a percent sign."
    return ArgumentError(problem, where=repr(pattern), cure=cure)
