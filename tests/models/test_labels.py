from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsafeError
from tensorkeep.models.labels import parse_labels, probabilities, read_labels, top

PETS = {0: "cat", 1: "dog, domestic"}


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog, domestic\n",
        "cat\r\ndog, domestic",
        '["cat", "dog, domestic"]',
        '{"0": "cat", "1": "dog, domestic"}',
        '{"0": ["n02", "cat"], "1": ["n03", "dog, domestic"]}',
        "0: cat\n1: dog, domestic\n",
        "0:cat\n\n1:\tdog, domestic",
        "{0: 'cat',\n 1: 'dog, domestic'}",
        "{0: 'cat',\n 1: 'dog, domestic',\n}\n",
        '\ufeff"0": "cat"\n"1": "dog, domestic"',
    ],
)
def test_the_forms_of_labels(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, "utf-8")
    assert read_labels(path) == PETS


def test_names_stay_as_they_are() -> None:
    assert parse_labels("n01440764 tench, Tinca tinca\ntime: noon") == {
        0: "n01440764 tench, Tinca tinca",
        1: "time: noon",
    }
    assert parse_labels("7: 'it\\'s'") == {7: "it's"}
    assert parse_labels("a\n\nc") == {0: "a", 1: "", 2: "c"}


@pytest.mark.parametrize("text", ['[["a"], 3]', '{"cat": 0}', "[[]]", '{"0": null}', "{cat}"])
def test_what_are_no_labels(text: str) -> None:
    with pytest.raises(CorruptError):
        parse_labels(text)


def test_files_that_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    with pytest.raises(MissingError, match="there is no such file"):
        read_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptError, match="is not text"):
        read_labels(path)
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(UnsafeError, match="bytes of labels"):
        read_labels(path)


def test_scores_that_are_probabilities_stay() -> None:
    given = np.array([[0.2, 0.8], [1, 0]], np.float16)
    values, applied = probabilities(given)
    assert not applied
    np.testing.assert_array_equal(values, given.astype(float))


@pytest.mark.parametrize("scores", [[[1.0, 2.0]], [[0.2, 0.9]], [[1000.0, -1000.0]], [[-0.5, 1.5]]])
def test_other_scores_become_probabilities(scores: list[list[float]]) -> None:
    given = np.array(scores, np.float32)
    values, applied = probabilities(given)
    assert applied
    expected = np.exp(given.astype(float) - given.max())
    np.testing.assert_allclose(values, expected / expected.sum())


def test_the_best_classes() -> None:
    scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], np.float64)
    rows, applied = top(scores, 2, PETS)
    assert not applied
    assert [[(s.number, s.name) for s in row] for row in rows] == [
        [(1, "dog, domestic"), (2, "")],
        [(0, "cat"), (1, "dog, domestic")],
    ]
    assert len(top(scores, 50)[0][0]) == 3
    assert top(scores.reshape(2, 3, 1, 1), 2, PETS)[0] == rows


@pytest.mark.parametrize("scores", [np.array(1.0), np.zeros((2, 0)), np.array([np.nan, 1.0])])
def test_what_are_no_scores(scores: Any) -> None:
    with pytest.raises(ArgumentError):
        top(scores, 1)
