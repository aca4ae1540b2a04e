from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import dtypes, errors
from tensorkeep.notes import MAX_AXES, Notes, is_shape, parse_notes

NAMES = st.text(max_size=4)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda child: st.lists(child, max_size=3) | st.dictionaries(NAMES, child, max_size=3),
    max_leaves=4,
)
NOTES = st.builds(
    Notes,
    metadata=st.dictionaries(NAMES, JSON, max_size=3),
    skeleton=st.none() | st.fixed_dictionaries({"tree": JSON}, optional={"framework": NAMES}),
    stored=st.dictionaries(
        NAMES,
        st.tuples(
            st.sampled_from(list(dtypes.DTYPES.values())),
            st.lists(st.integers(0, 2**63 - 1), max_size=3).map(tuple),
        ),
        max_size=3,
    ),
    digests=st.dictionaries(NAMES, st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=3),
)


@given(NOTES)
def test_notes_come_back(notes: Notes) -> None:
    text = notes.dump()
    if not text:
        assert notes == Notes()
    else:
        names = set(notes.digests or ())
        for given in (text, text.encode()):
            found = parse_notes(given, "here", names)
            assert found == notes
            assert list(found.digests or ()) == list(notes.digests or ())


def test_nothing_to_note() -> None:
    assert Notes().dump() == ""


@given(st.text() | st.binary() | JSON.map(str))
def test_anything_else_is_an_error_of_ours(text: str | bytes) -> None:
    with pytest.raises((errors.CorruptError, errors.UnsupportedError)) as caught:
        parse_notes(text, "here")
    assert str(caught.value).startswith("here: ")


@pytest.mark.parametrize("version", ["2", "0", "null", '"1"', "[1]", "1.5"])
def test_other_versions(version: str) -> None:
    with pytest.raises(errors.UnsupportedError, match="Update tensorkeep"):
        parse_notes(f'{{"version":{version}}}', "here")


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ([], True),
        ([0, 2**63 - 1], True),
        ([1] * MAX_AXES, True),
        ([1] * (MAX_AXES + 1), False),
        ([2**63], False),
        ([-1], False),
        ([1.0], False),
        ([True], False),
        (["1"], False),
        ((1,), False),
        (None, False),
        ({}, False),
    ],
)
def test_shapes(value: Any, good: bool) -> None:
    assert is_shape(value) == good
