"""The page's colours keep the contrast that WCAG 2.2 asks for at level AA, in both themes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

STYLE = Path(__file__).parents[2] / "frontend" / "src" / "style.css"
GROUNDS = ("paper", "raised", "chosen")
TEXTS = ("ink", "soft", "accent", "a", "b", "c", "d", "e", "f", "good", "bad")
_PAIR = re.compile(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")


def colours(theme: str) -> dict[str, str]:
    """Give the colour of each variable."""
    found = _PAIR.findall(STYLE.read_text(encoding="utf-8"))
    return {name: light if theme == "light" else dark for name, light, dark in found}


def contrast(one: str, other: str) -> float:
    """Give the contrast ratio of two colours, as WCAG defines it: 1 to 21."""
    dim, bright = sorted((_luminance(one), _luminance(other)))
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def least(theme: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Give the contrast of each pair that occurs, and the least that it may have."""
    of = colours(theme)
    texts = dict.fromkeys(itertools.product(TEXTS, GROUNDS), 4.5)
    texts |= {("accent-ink", "accent"): 4.5, ("paper", "a"): 4.5, ("paper", "b"): 4.5}
    edges = {("edge", ground): 3.0 for ground in GROUNDS}
    return {
        (text, ground): (contrast(of[text], of[ground]), needed)
        for (text, ground), needed in (texts | edges).items()
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_pair_that_occurs_can_be_read(theme: str) -> None:
    low = {pair: found for pair, (found, needed) in least(theme).items() if found < needed}
    assert not low


def test_black_on_white_has_the_contrast_that_the_standard_names() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
