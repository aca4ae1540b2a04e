"""Several PyTorch files under one index, as Hugging Face tools write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors

DATA = Path(__file__).parents[1] / "data" / "pytorch"
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two shards."""
    tk.save({"a.w": np.ones((2, 2), np.float32)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    tk.save({"b.w": np.arange(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    write(
        tmp_path,
        {
            "a.w": "pytorch_model-00001-of-00002.bin",
            "b.w": "pytorch_model-00002-of-00002.bin",
        },
    )
    return tmp_path


def write(folder: Path, weight_map: object) -> None:
    document = {"metadata": {"total_size": 40}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(document))


def test_by_its_index_its_folder_or_its_name(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    for path in (folder / INDEX, folder, folder / "pytorch_model.bin"):
        with tk.open(path) as state:
            assert state.format == "pytorch"
            assert list(state) == ["a.w", "b.w"]
        assert tk.load(path)["b.w"].tolist() == [0, 1, 2]
        assert tk.load(path, verify=True)["a.w"].tolist() == [[1, 1], [1, 1]]


def test_a_folder_of_one_file(tmp_path: Path) -> None:
    tk.save({"w": np.ones(2)}, tmp_path / "pytorch_model.bin")
    assert tk.load(tmp_path)["w"].tolist() == [1, 1]
    tk.save({"w": np.zeros(2)}, tmp_path / "model.safetensors")
    assert tk.load(tmp_path)["w"].tolist() == [0, 0]


def test_what_a_shard_refuses(folder: Path) -> None:
    shutil.copy(DATA / "args.pt", folder / "pytorch_model-00002-of-00002.bin")
    write(
        folder,
        {
            "a.w": "pytorch_model-00001-of-00002.bin",
            "w": "pytorch_model-00002-of-00002.bin",
            "args.tensor": "pytorch_model-00002-of-00002.bin",
        },
    )
    with tk.open(folder) as state:
        assert state.refused == (
            "in pytorch_model-00002-of-00002.bin, 'args' would need argparse.Namespace",
        )


LIES = {
    "a tensor that is not there": ({"a.w": "pytorch_model-00002-of-00002.bin"}, "where it is not"),
    "a tensor too many": (
        {"b.w": "pytorch_model-00002-of-00002.bin", "a.w": "x.bin"},
        "no such file",
    ),
    "no tensors": ({}, "has no weight_map"),
    "no map": ([], "has no weight_map"),
    "a file that is none": ({"a": 5}, "for the file of"),
    "another kind of file": ({"a": "evil.py"}, "no PyTorch file"),
    "a file outside": ({"a": "../pytorch_model.bin"}, "not inside its own folder"),
    "an absolute file": ({"a": "/etc/passwd.bin"}, "not inside its own folder"),
}


@pytest.mark.parametrize(("weight_map", "match"), LIES.values(), ids=LIES)
def test_lies_of_an_index(folder: Path, weight_map: object, match: str) -> None:
    write(folder, weight_map)
    with pytest.raises(errors.TensorKeepError, match=match):
        tk.open(folder / INDEX)


def test_a_shard_that_holds_more(folder: Path) -> None:
    tk.save({"b.w": np.ones(1), "c": np.ones(1)}, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(
        errors.CorruptError, match="holds 'c', which the index does not place there"
    ):
        tk.open(folder)


def test_other_formats_leave_the_index_alone(folder: Path) -> None:
    with pytest.raises(errors.MissingError):
        tk.open(folder / "pytorch_model.safetensors")
    (folder / INDEX).write_text("not JSON")
    with pytest.raises(errors.TensorKeepError):
        tk.open(folder / INDEX)
