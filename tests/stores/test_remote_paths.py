"""What takes a path takes an URL, or says what to do instead."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.servers import FileServer

import tensorkeep as tk
from tensorkeep import dtypes, errors
from tensorkeep.models.labels import read_labels


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".npy", ".pt", ".gguf", ".h5", ".json"])
def test_files_of_each_kind(http: FileServer, tmp_path: Path, ending: str) -> None:
    values = np.arange(300_000, dtype=np.float32)
    path = tmp_path / f"state{ending}"
    tk.save(values if ending == ".npy" else {"w": values, "b": values[:9]}, path)
    http.files[path.name] = path.read_bytes()
    here, there = tk.load(path, framework="numpy"), tk.load(http.url(path.name), framework="numpy")
    assert (
        np.array_equal(np.asarray(here), np.asarray(there))
        if ending == ".npy"
        else (here.keys() == there.keys() and all(np.array_equal(here[n], there[n]) for n in here))
    )
    assert tk.diff(http.url(path.name), path).equal
    assert tk.verify(http.url(path.name)).ok


def test_arrays_of_training_data(http: FileServer, tmp_path: Path) -> None:
    rows = {"x": np.arange(2000.0).reshape(100, 20), "y": np.arange(100) % 7}
    tk.save(rows, tmp_path / "set.npz")
    http.files["set.npz"] = (tmp_path / "set.npz").read_bytes()
    dataset = tk.data.open(http.url("set.npz"))
    wanted = np.array([5, 90, 3])
    for opened in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert np.array_equal(opened.gather(wanted)["x"], rows["x"][wanted])
        opened.close()


@pytest.mark.parametrize("name", ["set.tar", "set-*.tar", "set-{0..3}.tar"])
def test_other_training_data_is_to_be_copied(http: FileServer, name: str) -> None:
    http.files["set.tar"] = bytes(10240)
    with pytest.raises(errors.UnsupportedError, match="tensorkeep copy"):
        tk.data.open(http.url() + name)
    with pytest.raises(errors.UnsupportedError, match="'images' is read from a disk alone"):
        tk.data.open(http.url("pictures"), kind="images")
    with pytest.raises(errors.MissingError, match=r"there is no such object$"):
        tk.data.open(http.url("nothing.npz"))


@pytest.mark.parametrize("url", ["s3://bucket/m.lmdb", "lmdb:s3://bucket/m", "gs://b/a.sqlite"])
def test_databases_are_to_be_copied(url: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=r"on a disk alone.*tensorkeep copy"):
        tk.open(url)
    with pytest.raises(errors.UnsupportedError, match="on a disk alone"):
        tk.save({"w": np.zeros(3)}, url)


def test_labels_of_classes(http: FileServer) -> None:
    http.files["labels.txt"] = b"cat\ndog\n"
    assert read_labels(http.url("labels.txt")) == {0: "cat", 1: "dog"}
    with pytest.raises(errors.MissingError):
        read_labels(http.url("none.txt"))


def test_pictures(http: FileServer) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from tensorkeep.models.images import Shape, read_image

    file = io.BytesIO()
    pillow.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file, "PNG")
    http.files["p.png"] = file.getvalue()
    shape = Shape("nhwc", 3, 8, 8, dtypes.UINT8)
    assert read_image(http.url("p.png"), shape).mean() == 7
