from __future__ import annotations

import contextlib
import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.mapping.patterns import check_replacement, compiled, replaced

NAMES = st.text("ab.0[]-^!", max_size=8)


def renamed(pattern: str, replacement: str, name: str) -> str | None:
    check_replacement(pattern, replacement)
    match = compiled(pattern).fullmatch(name)
    return None if match is None else replaced(pattern, replacement, match)


@pytest.mark.parametrize(
    ("pattern", "replacement", "name", "new"),
    [
        ("model.*", "*", "model.a.b", "a.b"),
        ("*", "net.*", "w", "net.w"),
        ("encoder.*.attn.*", "blocks.*.a.*", "encoder.3.attn.q.w", "blocks.3.a.q.w"),
        ("*.*.w", "*.x", "a.b.w", "a.x"),  # what is not asked for is left out
        ("w", "v", "w", "v"),
        ("w", "v", "ww", None),
        ("h?.w", "x", "h1.w", "x"),
        ("h[0-3].*", "k.*", "h2.w", "k.w"),
        ("h[!0-3].*", "k.*", "h2.w", None),
        (r"re:h\.(\d+)\.(.*)", r"\2.\1", "h.10.w", "w.10"),
        (r"re:(?P<a>.)b", r"\g<a>", "ab", "a"),
        ("a+b", "c", "a+b", "c"),
        ("a\\b", "c", "a\\b", "c"),
        ("*", "*", "line\nend", "line\nend"),
    ],
)
def test_new_names(pattern: str, replacement: str, name: str, new: str | None) -> None:
    assert renamed(pattern, replacement, name) == new


@given(st.text("ab.0*?", max_size=6), NAMES)
def test_globs_match_what_fnmatch_matches(pattern: str, name: str) -> None:
    expected = re.compile(fnmatch.translate(pattern)).match(name) is not None
    assert (compiled(pattern).fullmatch(name) is not None) == expected


@given(st.text("ab[]!^-*\\", max_size=6), NAMES)
def test_any_text_is_a_glob(pattern: str, name: str) -> None:
    with contextlib.suppress(tk.TensorKeepError):  # for a range the wrong way round
        compiled(pattern).fullmatch(name)


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(ValueError, match="is no regular expression: "):
        compiled("re:(")


@pytest.mark.parametrize(
    ("pattern", "replacement"), [("w", "*"), ("*.a", "*.*"), (r"re:(a)", r"\2"), ("re:a", r"\1")]
)
def test_a_replacement_that_asks_for_more(pattern: str, replacement: str) -> None:
    with pytest.raises(ValueError, match="remembers"):
        check_replacement(pattern, replacement)


def test_a_replacement_with_a_group_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="is no replacement"):
        renamed("re:(a)", r"\g<b>", "a")
