"""Every recorded operator run gives Caffe2's result, or the safer one that is listed here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import Case, Outcome, Row, read_cases, run_cases

from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)

CASES = {case["id"]: case for case in read_cases()}

# What each kind of failure is here, and what its message names.
ERRORS: dict[str, tuple[type[TensorKeepError], str]] = {
    "bad_interval": (ArgumentError, "'every'"),
    "bad_options": (ArgumentError, "'options'"),
    "bad_proto": (CorruptError, "garbage_value.minidb"),
    "bad_record_header": (CorruptError, "record 0"),
    "bad_regex": (ArgumentError, "blob_name_regex"),
    "bad_shard": (ArgumentError, "shard"),
    "cannot_open": (MissingError, "absent"),
    "chunk_id_out_of_range": (CorruptError, "'s' has a piece 5 of 2"),
    "data_length": (CorruptError, "_data"),
    "duplicate_blob": (CorruptError, "'s'"),
    "duplicate_input_name": (ArgumentError, "'a'"),
    "duplicate_key_across_dbs": (CorruptError, "'b'"),
    "duplicate_name_in_dbs": (ArgumentError, "whole.minidb"),
    "duplicate_source_name": (ArgumentError, "twice"),
    "empty_name_in_dbs": (ArgumentError, "db"),
    "extra_tensor_part": (CorruptError, "'a'"),
    "incomplete_tensor": (
        CorruptError,
        r"'a' has 7 of 10 elements: elements 3 to 6|'s' has 2 of 3",
    ),
    "load_all_with_source_names": (ArgumentError, "load_all"),
    "missing_blobs": (MissingError, "'a'|'zz'"),
    "missing_input_blob": (MissingError, "'zz'"),
    "no_db_name": (ArgumentError, "db"),
    "no_db_type": (ArgumentError, "db_type"),
    "no_pattern": (ArgumentError, "pattern"),
    "output_not_in_db": (MissingError, "'zz'"),
    "overrides_length": (ArgumentError, "blob_name_overrides"),
    "part_without_segment": (CorruptError, "'a'"),
    "repeated_chunk_id": (CorruptError, "'s'"),
    "schema": (ArgumentError, "0 inputs"),
    "segment_out_of_range": (CorruptError, "elements 0 to 15"),
    "shard_id_past_end": (MissingError, "shard 8"),
    "source_names_length": (ArgumentError, "source_blob_names"),
    "strip_prefix_with_overrides": (ArgumentError, "strip_prefix"),
    "strip_prefix_with_source_names": (ArgumentError, "strip_prefix"),
    "truncated_record": (CorruptError, "record"),
    "unknown_blob_type": (UnsupportedError, "'s'|'a'"),
    "unknown_data_format": (CorruptError, "data_format"),
    "unknown_data_type": (CorruptError, "data_type"),
    "unknown_db_type": (ArgumentError, "'nosuchdb'"),
    "unserializable_blob": (UnsupportedError, "ab"),
    "wrong_argument_type": (ArgumentError, "'absolute_path'"),
    "wrong_tensor_type": (ArgumentError, "int64"),
}


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "lax"])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[bool, dict[str, Outcome]]]:
    folder = tmp_path_factory.mktemp("cases")
    home = os.getcwd()
    os.chdir(folder)
    try:
        yield request.param, run_cases(folder, strict=request.param)
    finally:
        os.chdir(home)


# Where the failure is the same, but its cause is told.
CLEARER: dict[str, tuple[type[TensorKeepError], str]] = {
    "directory_as_file": (UnsupportedError, "cases: is a folder, not a file"),
}

HOW = ("all", "named", "allow_incomplete")
NAMED = HOW[1:]


def _each(cases: list[str], how: tuple[str, ...], why: str) -> dict[str, str]:
    return {f"{case}/{one}": why for case in cases for one in how}


# Where Caffe2 succeeds and we refuse: {case: why}, and the error that we give instead.
REFUSED = {
    **_each(
        ["repeated_last_chunk", "string_twice", "content_chunks_extra"],
        NAMED,
        "a repeated part is found although a named Load has all it needs before it",
    ),
    **_each(
        ["chunk_replaced_by_copy"],
        HOW,
        "a chunk in the place of another is found, where Caffe2 only counts elements",
    ),
    **_each(
        ["content_chunks"],
        HOW,
        "content in pieces is refused, where Caffe2 keeps the last piece alone",
    ),
    **_each(
        ["cut_1_byte_in", "cut_3_bytes_in"],
        HOW,
        "a file that ends inside a record is cut short, however few bytes of it are there",
    ),
    **_each(
        ["cut_4_bytes_in", "cut_in_key", "cut_in_value", "cut_last_byte"],
        NAMED,
        "a file that ends inside a record is cut short, also behind what was asked for",
    ),
    "hash_name/named": "the blob 'a#%x' is kept under its name, so there is no 'a'",
    "save_overrides_repeated_accepted": "two blobs of one name could not be loaded again",
}
REFUSALS: dict[str, tuple[type[TensorKeepError], str]] = {
    "repeated_last_chunk": (CorruptError, r"'a#%0', elements 0 to 3: .* 'a' has elements 0 to 3"),
    "string_twice": (CorruptError, "'s' is there twice"),
    "content_chunks_extra": (CorruptError, "'s' has the piece 1 twice"),
    "chunk_replaced_by_copy": (CorruptError, r"'a#%0', elements 0 to 3: .* 'a' has elements"),
    "content_chunks": (UnsupportedError, "'s' is in 2 pieces"),
    "cut_1_byte_in": (CorruptError, "record 1 at byte 86 is cut short"),
    "cut_3_bytes_in": (CorruptError, "record 1 at byte 86 is cut short"),
    "cut_4_bytes_in": (CorruptError, "record 1 at byte 86 is cut short"),
    "cut_in_key": (CorruptError, "record 1 at byte 86 .* of which 70 are missing"),
    "cut_in_value": (CorruptError, "record 1 at byte 86 .* of which 59 are missing"),
    "cut_last_byte": (CorruptError, "record 2 at byte 165 .* of which 1 are missing"),
    "hash_name": (MissingError, "'a'"),
    "save_overrides_repeated_accepted": (ArgumentError, "'q'"),
}

# Where both succeed and leave something else: {case: (why, {blob: what it is here, or None})}.
OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "hash_name/all": (
        "names that contain #% survive",
        {"a": None, "a#%x": ("float32", [10])},
    ),
    "hash_name/allow_incomplete": ("names that contain #% survive", {"a": None}),
    "exists_unknown_type": ("no database can be read as an unknown type", {"yes": False}),
    "exists_directory": ("a folder is no minidb", {"yes": False}),
    "exists_damaged": ("a damaged file cannot be read", {"yes": False}),
    "exists_no_type": ("no database can be read without a type", {"yes": False}),
}
NO_EMPTY_OUTPUT = "source_names_missing_allowed"  # Caffe2 forgets to remove the output it made

# What Caffe2 leaves behind after a failure that strict=False does not: memory that was reserved
# and not written, and readers that are not open.
UNWRITTEN = (
    *_each(["no_data_type", "unknown_data_format", "bfloat16_without_raw"], HOW, ""),
    *_each(["segment_past_end", "short_data"], HOW, ""),
    "int8_slack_bytes/all",
    *("create_db_shard_0_0", "create_db_shard_2_2", "create_db_shard_9_8", "create_db_missing"),
)
# Content pieces that Caffe2 refuses but has put into the blob by then.
WRITTEN_BEFORE_THE_CHECK = _each(["content_chunks_repeated", "content_chunk_id_range"], HOW, "")


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, outcomes: tuple[bool, dict[str, Outcome]]) -> None:
    strict, found = outcomes
    case, outcome = CASES[name], found[name]
    if strict and name in REFUSED:
        assert case["ok"], "it is no difference"
        check_error(outcome, *REFUSALS[name.partition("/")[0]])
    elif case["ok"]:
        assert outcome.error is None
        check_blobs(case, outcome, OTHER.get(name, ("", {}))[1] if strict else {})
    else:
        check_error(outcome, *CLEARER.get(name, ERRORS[case["error"]]))
        if not strict:
            check_rest(case, outcome)
            return
    if outcome.error is not None:
        assert outcome.after == outcome.before, "a failing operator changes nothing"


def check_error(outcome: Outcome, kind: type[TensorKeepError], text: str) -> None:
    assert type(outcome.error) is kind
    assert re.search(text, str(outcome.error)), str(outcome.error)


def check_blobs(case: Case, outcome: Outcome, other: dict[str, Any]) -> None:
    """Check that a run left what Caffe2's did, but for what is listed as other."""
    expected = {row["name"]: row for row in case["after"]}
    if case["id"] == NO_EMPTY_OUTPUT:
        assert expected.pop("r")["kind"] == "uninitialized"
    for name, what in other.items():
        before = expected.pop(name, None)
        match what:
            case None:
                assert name not in outcome.after
            case bool():
                assert before is not None
                assert before["value"] is not what
                digest = hashlib.sha256(np.array(what).tobytes()).hexdigest()
                assert outcome.after[name]["sha256"] == digest
            case (dtype, shape):
                assert outcome.after[name]["dtype"] == dtype
                assert outcome.after[name]["shape"] == shape
    assert outcome.after.keys() - other.keys() == expected.keys()
    for name, row in expected.items():
        check_row(row, outcome.after[name])


def check_rest(case: Case, outcome: Outcome) -> None:
    """Check what a failing run with strict=False leaves: what Caffe2's does, as far as it wrote."""
    expected = {row["name"]: row for row in case["after"] if row["kind"] != "uninitialized"}
    if case["id"] in UNWRITTEN:
        assert len(expected) == 1
        expected = {}
    if case["id"] in WRITTEN_BEFORE_THE_CHECK:
        assert outcome.after.keys() <= expected.keys()
        return
    assert outcome.after.keys() == expected.keys()
    for name, row in expected.items():
        check_row(row, outcome.after[name])


def check_row(expected: Row, found: Row) -> None:
    shared = expected.keys() - {"value"}
    assert {key: found[key] for key in shared} == {key: expected[key] for key in shared}


def test_files(outcomes: tuple[bool, dict[str, Outcome]]) -> None:
    _, found = outcomes
    kept = None
    for name, case in CASES.items():
        outcome = found[name]
        if case["op"] == "Save" and outcome.error is not None:
            assert outcome.file == kept, "a failing Save leaves the old file"
        elif case["op"] == "Save":
            assert outcome.file == case["file_after"]
        kept = outcome.file
    assert kept is not None


def test_the_lists_are_not_out_of_date() -> None:
    listed = {*REFUSED, *OTHER, NO_EMPTY_OUTPUT, *UNWRITTEN, *CLEARER}
    listed |= WRITTEN_BEFORE_THE_CHECK.keys()
    assert listed <= CASES.keys()
    assert {name.partition("/")[0] for name in REFUSED} == REFUSALS.keys()
    assert {case["error"] for case in CASES.values()} - {None} == ERRORS.keys()
    assert len(CASES) == 170
