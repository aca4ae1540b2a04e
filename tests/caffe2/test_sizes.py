from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA

from tensorkeep.caffe2 import Blob, SaveOptions, Workspace, create_operator
from tensorkeep.errors import ArgumentError


def filled(options: SaveOptions) -> Workspace:
    """Make the workspace of which the sizes were recorded."""
    ws = Workspace(save_options=options)
    kinds = ["float32", "float64", "float16", "bool"]
    kinds += ["int8", "int16", "int32", "int64", "uint8", "uint16"]
    for kind in kinds:
        ws.feed(f"v_{kind}", np.zeros(23, kind))
    ws.feed("strs", np.array(["a", "bb", "ccc"], object))
    ws.feed("stdstr", "hello")
    ws.feed("none", np.zeros((0, 4), np.float32))
    ws.feed("scalar", np.array(1.5, np.float32))
    ws.feed("cnt", Blob("std::unique_ptr<Counter<int64_t>>", 3))
    return ws


@pytest.mark.parametrize("file", ["estimate.json", "bytes_holder_estimate.json"])
def test_as_recorded(file: str) -> None:
    options = SaveOptions(byte_holder=file.startswith("bytes_holder"))
    for run in json.loads((DATA / file).read_text()):
        ws = filled(options)
        given: dict[str, Any] = {}
        if run["options"]:
            given["options"] = bytes.fromhex(run["options"]["hex"])
        ws.run(create_operator("EstimateAllBlobSizes", [], ["names", "sizes"], **given))
        names = [name.decode() for name in ws.fetch("names")]
        sizes = ws.fetch("sizes")
        assert sizes.dtype == np.int64
        assert dict(zip(names, sizes.tolist(), strict=True)) == run["sizes"]


def test_shared_blobs() -> None:
    ws = Workspace()
    ws.feed("a", np.zeros(3, np.float32))
    child = ws.child()
    child.feed("b", np.zeros(3, np.float32))
    child.run(create_operator("EstimateAllBlobSizes", [], ["n", "s"]))
    assert set(child.fetch("n")) == {b"a", b"b", b"n", b"s"}
    child.run(create_operator("EstimateAllBlobSizes", [], ["n", "s"], include_shared=0))
    assert set(child.fetch("n")) == {b"b", b"n", b"s"}


def test_bad_options() -> None:
    with pytest.raises(ArgumentError, match="'options'"):
        Workspace().run(
            create_operator("EstimateAllBlobSizes", [], ["n", "s"], options=b"\xff\xff")
        )


def test_all_names(tmp_path: Path) -> None:
    ws = Workspace()
    ws.feed("x", b"")
    ws.run(create_operator("GetAllBlobNames", [], ["names"]))
    assert ws.fetch("names").tolist() == [b"x", b"names"]
