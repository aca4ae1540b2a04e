"""Folders of NNEF, against `nnef` in both directions."""

from __future__ import annotations

import os
from pathlib import Path

import nnef
import numpy as np
import pytest
from tests.formats.nnef.networks import TEXT, arrays, read_by_nnef, same_graph, write_model

import tensorkeep as tk
from tensorkeep.dtypes import BFLOAT16, INT4
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats.nnef import writing
from tensorkeep.formats.nnef.files import is_label
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states, sample
from tensorkeep.wire.nnef.document import Document


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "net")


def document_of(state: tk.State) -> Document:
    assert isinstance(state.document, Document)
    return state.document


@pytest.mark.parametrize("inside", ["", "graph.nnef"])
def test_a_model_opens_by_its_folder_or_its_text(model: Path, inside: str) -> None:
    with tk.open(model / inside) as state:
        assert (state.format, state.dialect) == ("nnef", "nnef")
        assert_equal_states(dict(state.items()), arrays())
        document = document_of(state)
        assert (document.name, document.inputs) == ("net", ["image"])
        assert document.outputs == ["probabilities"]
        assert not state.digests
        assert not state.metadata
        assert state["conv1/filter"][1:, 0, 2].shape == (2, 3)


def test_what_nnef_saves_is_read(tmp_path: Path, model: Path) -> None:
    nnef.save_graph(nnef.load_graph(str(model)), str(tmp_path / "theirs"))
    with tk.open(tmp_path / "theirs") as state:
        assert_equal_states(dict(state.items()), arrays())


@pytest.mark.parametrize("name", ["copy.nnef", "copy.nnef/"])
def test_what_is_written_nnef_reads(tmp_path: Path, model: Path, name: str) -> None:
    with tk.open(model) as state:
        tk.save(state, tmp_path / name)
    assert_equal_states(read_by_nnef(tmp_path / "copy.nnef"), arrays())
    assert same_graph(model, tmp_path / "copy.nnef")
    text = (tmp_path / "copy.nnef/graph.nnef").read_text()
    assert text.startswith("version 1.0;")  # a model without anything to note has no note
    for label in arrays():
        ours, theirs = ((p / f"{label}.dat").read_bytes() for p in (tmp_path / "copy.nnef", model))
        assert ours == theirs


def test_a_model_saved_twice_is_the_same(tmp_path: Path, model: Path) -> None:
    for before, after in ((model, "one.nnef"), (tmp_path / "one.nnef", "two.nnef")):
        with tk.open(before) as state:
            tk.save(state, tmp_path / after, checksums=True, metadata={"epoch": 3})
    for path in (tmp_path / "one.nnef").rglob("*.*"):
        other = tmp_path / "two.nnef" / path.relative_to(tmp_path / "one.nnef")
        assert path.read_bytes() == other.read_bytes()
    with tk.open(tmp_path / "two.nnef") as state:
        assert state.metadata == {"epoch": 3}
        assert set(state.digests) == set(arrays())
    assert same_graph(model, tmp_path / "two.nnef")


def test_a_model_may_be_saved_over_itself(model: Path) -> None:
    with tk.open(model) as state:
        tk.save(state, model, format="nnef", metadata={"again": True})
    with tk.open(model) as state:
        assert state.metadata == {"again": True}
        assert_equal_states(dict(state.items()), arrays())


def test_a_state_that_is_no_model(tmp_path: Path) -> None:
    value = {
        "layer": {"w": np.eye(2, dtype=np.float32), "flags": np.array([True, False, True])},
        "names": np.array(["a", "ü"]),
        "half": sample(BFLOAT16, (3,)).numpy(),
        "deep": np.zeros((1,) * 9, np.int8),
        "none": np.zeros((0, 3), np.uint16),
        "../odd 'name'\n": np.float64(2.5),
        "a.dat/b": np.int32(4),
        "": np.uint8(1),
        "step": 7,
    }
    tk.save(value, tmp_path / "state.nnef", metadata={"epoch": 3})
    assert_equal_states(tk.load(tmp_path / "state.nnef", verify=True), value)
    with tk.open(tmp_path / "state.nnef") as state:
        assert (state.metadata, state.document) == ({"epoch": 3}, None)
    theirs = read_by_nnef(tmp_path / "state.nnef")
    np.testing.assert_array_equal(theirs["layer.w"], np.eye(2))
    np.testing.assert_array_equal(theirs["layer.flags"], [True, False, True])
    assert theirs["none"].shape == (0, 3)
    files = {str(p.relative_to(tmp_path / "state.nnef")) for p in tmp_path.rglob("*.dat")}
    assert "tensorkeep-name/a.dat%2Fb.dat" in files
    assert len(files) == 9


def test_a_state_without_tensors(tmp_path: Path) -> None:
    tk.save({"step": 7}, tmp_path / "empty.nnef")
    assert tk.load(tmp_path / "empty.nnef") == {"step": 7}
    assert nnef.load_graph(str(tmp_path / "empty.nnef")).inputs == ["input"]


def test_a_lone_text_lists_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "net.nnef").write_text(TEXT)
    with tk.open(tmp_path / "net.nnef") as state:
        assert list(state) == list(arrays())
        assert state["steps"].dtype.name == "int64"
        assert state.remarks["steps"] == "no data"
        with pytest.raises(MissingError, match=r"'steps' has no data: there is no steps.dat"):
            state["steps"].numpy()
        with pytest.raises(MissingError, match="has no data"):
            tk.save(state, tmp_path / "copy.nnef")
    assert not (tmp_path / "copy.nnef").exists()


def test_a_text_of_another_name_beside_its_tensors(model: Path) -> None:
    os.rename(model / "graph.nnef", model / "net.txt")
    with tk.open(model / "net.txt") as state:
        assert_equal_states(dict(state.items()), arrays())


def test_variables_of_one_label_are_one_tensor(model: Path) -> None:
    with tk.open(model) as state:
        assert len(state) == 3
        changed = {**dict(state.items()), "steps": Tensor.of(np.array([1, 2]))}
        tk.save(state.replace(tensors=changed), model.parent / "new.nnef")
    assert read_by_nnef(model.parent / "new.nnef")["steps"].tolist() == [1, 2]


def test_a_shape_that_the_graph_contradicts(model: Path) -> None:
    text = (model / "graph.nnef").read_text().replace("[2], label", "[3], label")
    (model / "graph.nnef").write_text(text)
    problem = r"steps.dat: has shape \(2,\), where the graph gives the variable 'steps' .*\(3,\)"
    with pytest.raises(CorruptError, match=problem):
        tk.open(model)


def test_names_that_are_no_labels_are_noted(model: Path) -> None:
    with tk.open(model) as state:
        document = document_of(state)
        document.names.update(bias="it's a bias", again="it's a bias", conv="Conv 1 (fused)")
        document.types["conv"] = "float16"
        tensors = {n: t for n, t in state.items() if n != "conv1/bias:0"}
        tensors["it's a bias"] = state["conv1/bias:0"]
        tk.save(state.replace(tensors=tensors), model.parent / "named.nnef")
    with tk.open(model.parent / "named.nnef") as state:
        assert set(state) == {"conv1/filter", "it's a bias", "steps"}
        assert document_of(state).name_of("conv") == "Conv 1 (fused)"
        assert document_of(state).types == {"conv": "float16"}
    assert same_graph(model, model.parent / "named.nnef")


def test_labels_that_no_folder_has_are_escaped(tmp_path: Path) -> None:
    text = TEXT.replace("'steps'", "'a.dat/steps'")
    document = Document.parse(text)
    tensors = {name: Tensor.of(array) for name, array in arrays().items()}
    tensors["a.dat/steps"] = tensors.pop("steps")
    tk.save(tk.State(tensors, document=document), tmp_path / "net.nnef")
    with tk.open(tmp_path / "net.nnef") as state:
        assert_equal_states(dict(state.items()), dict(tensors.items()))
    assert "tensorkeep-name/a.dat%2Fsteps" in read_by_nnef(tmp_path / "net.nnef")


def test_quantization_is_kept(tmp_path: Path) -> None:
    text = """version 1.0;
    graph net( x ) -> ( y )
    {
        x = external<scalar>(shape = [1, 4]);
        w = variable<scalar>(shape = [2, 4], label = 'w');
        y = matmul(x, w, transposeB = true);
    }
    """
    quant = '"w": linear_quantize(min = -1.0, max = 1.0, bits = 8);\n'
    folder = write_model(tmp_path / "net", text, {})
    (folder / "graph.quant").write_text(quant)
    codes = np.arange(8, dtype=np.uint8).reshape(2, 4)
    with open(folder / "w.dat", "wb") as file:
        nnef.write_tensor(file, codes, quantized=True)
    with tk.open(folder) as state:
        assert state.remarks == {"w": "quint of 8 bits, linear_quantize"}
        np.testing.assert_array_equal(state["w"].numpy(), codes)
        tk.save(state, tmp_path / "copy.nnef", checksums=True)
    with open(tmp_path / "copy.nnef/w.dat", "rb") as file:
        assert nnef.read_tensor(file, return_quantization=True)[1]
    graph = nnef.load_graph(str(tmp_path / "copy.nnef"))
    assert graph.tensors["w"].quantization == nnef.load_graph(str(folder)).tensors["w"].quantization
    quant_file = tmp_path / "copy.nnef/graph.quant"
    quant_file.write_text(quant_file.read_text().replace("8", "7"))
    with pytest.raises(CorruptError, match="the model is damaged"):
        tk.open(tmp_path / "copy.nnef")


def test_quantized_elements_stay_so_without_a_quantization(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "net", TEXT.replace("<integer>", "<scalar>"))
    codes = np.array([-1, 2], np.int8)
    with open(folder / "steps.dat", "wb") as file:
        nnef.write_tensor(file, codes, quantized=True)
    for target in ("copy.nnef", "copy.nnef.tgz"):
        with tk.open(folder) as state:
            tk.save(state, tmp_path / target)
    with tk.open(tmp_path / "copy.nnef.tgz") as state:
        assert state.remarks == {"steps": "qint of 8 bits"}
        tk.save(state, tmp_path / "again.nnef")
    for copy in ("copy.nnef", "again.nnef"):
        assert (tmp_path / copy / "steps.dat").read_bytes() == (folder / "steps.dat").read_bytes()


def test_elements_of_four_bits_stay_so(tmp_path: Path) -> None:
    codes = sample(INT4, (2,))
    tensors = {name: Tensor.of(array) for name, array in arrays().items()} | {"steps": codes}
    tk.save(tk.State(tensors, document=Document.parse(TEXT)), tmp_path / "net.nnef")
    with tk.open(tmp_path / "net.nnef") as state:
        assert state["steps"].dtype is INT4
        assert bytes(state["steps"].read()) == bytes(codes.read())
        assert not state.remarks


def test_variables_that_nnef_cannot_hold_are_refused(tmp_path: Path) -> None:
    tensors = {name: Tensor.of(array) for name, array in arrays().items()}
    document = Document.parse(TEXT)
    for tensor, kind, problem in (
        (sample(BFLOAT16, (2,)), UnsupportedError, "'steps' is bfloat16 of shape .*no bfloat16"),
        (
            Tensor.of(np.zeros(3)),
            ArgumentError,
            r"'steps' has shape \(3,\), and \[2\] in the graph",
        ),
    ):
        state = tk.State({**tensors, "steps": tensor}, document=document)
        with pytest.raises(kind, match=problem):
            tk.save(state, tmp_path / "net.nnef")
    with pytest.raises(LossError, match="the tensor 'more' is no variable of the model"):
        tk.save(
            tk.State({**tensors, "more": tensors["steps"]}, document=document),
            tmp_path / "net.nnef",
        )
    del tensors["steps"]
    with pytest.raises(MissingError, match="has no tensor called 'steps'"):
        tk.save(tk.State(tensors, document=document), tmp_path / "net.nnef")
    assert not (tmp_path / "net.nnef").exists()


def test_two_tensors_for_one_file_are_refused(tmp_path: Path) -> None:
    document = Document.parse(TEXT)
    document.names["again"] = "again"
    tensors = {name: Tensor.of(array) for name, array in arrays().items()}
    same = {**tensors, "again": Tensor.of(arrays()["conv1/bias:0"])}
    tk.save(tk.State(same, document=document), tmp_path / "same.nnef")
    with tk.open(tmp_path / "same.nnef") as state:
        assert set(state) == {*arrays(), "again"}
    other = {**tensors, "again": Tensor.of(np.zeros((1, 3), np.float32))}
    with pytest.raises(ArgumentError, match=r"'again' shares the file 'conv1/bias:0\.dat'"):
        tk.save(tk.State(other, document=document), tmp_path / "other.nnef")


def test_folders_of_other_files_are_not_replaced(tmp_path: Path, model: Path) -> None:
    (tmp_path / "mine.nnef").mkdir()
    (tmp_path / "mine.nnef/notes.txt").write_text("mine")
    (model / "README.md").write_text("mine")
    for target in (tmp_path / "mine.nnef", model):
        with pytest.raises(ArgumentError, match="is a folder of other files, such as"):
            tk.save({"a": np.ones(1)}, target, format="nnef")
    with pytest.raises(ArgumentError, match="is a file in the folder of a model"):
        tk.save({"a": np.ones(1)}, model / "graph.nnef", format="nnef")
    assert (tmp_path / "mine.nnef/notes.txt").read_text() == "mine"


def test_opening_reads_the_texts_and_the_headers(model: Path) -> None:
    store = CountingStore(FileStore(model))
    with tk.open(store) as state:
        assert store.bytes_read == len(TEXT) + 3 * 128
        before = store.bytes_read
        _ = state["conv1/filter"][1, 1]
        assert store.bytes_read - before == 36


def test_no_file_is_kept_open_and_large_ones_are_mapped(tmp_path: Path) -> None:
    value = {f"w{i}": np.full(20_000, i, np.float32) for i in range(40)}
    tk.save(value, tmp_path / "many.nnef")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with tk.open(tmp_path / "many.nnef") as state:
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 1
        assert state["w3"].source.mapped
        first = state["w3"].numpy()
    assert first[0] == 3


def test_a_file_that_changed_since_is_told(model: Path) -> None:
    with tk.open(model) as state:
        with open(model / "steps.dat", "ab") as file:
            file.write(b"more")
        with pytest.raises(CorruptError, match="was 144 bytes when the model was opened"):
            state["steps"].numpy()


def test_states_whose_notes_are_gone_are_told(tmp_path: Path) -> None:
    tk.save({"a": np.ones(1)}, tmp_path / "state.nnef")
    text = tmp_path / "state.nnef/graph.nnef"
    text.write_text(text.read_text().partition("\n")[2])
    with pytest.raises(CorruptError, match="the notes in its first line are gone"):
        tk.open(tmp_path / "state.nnef")


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ('{"version":2}', "has version 2, not 1"),
        ('{"version":1,"names":[]}', "'names' in the tensorkeep metadata are no texts"),
        ('{"version":1,"types":{"x":"float9"}}', "has the element type 'float9'"),
        ('{"version":1,"stored":{"no":["int8",[2]]}}', "speak of 'no', which is not there"),
        ('{"version":1,"names":{"filter":"steps"}}', "has two variables called 'steps'"),
        ('{"version":1,"xxh3_128":""}', "the model's own digest is gone|32 hex digits"),
        ("{]", "tensorkeep metadata is broken"),
    ],
)
def test_wrong_notes(model: Path, note: str, problem: str) -> None:
    (model / "graph.nnef").write_text(f"# tensorkeep {note}\n{TEXT}")
    with pytest.raises(TensorKeepError, match=problem):
        tk.open(model)


def test_one_model_in_a_folder_is_found() -> None:
    files = MemoryStore()
    tk.save({"a": np.ones(1)}, Location(files, "net.nnef"))
    assert tk.load(files)["a"] == 1
    assert tk.load(Location(files, "net.nnef"))["a"] == 1


def test_one_tensor_apart_from_its_model(model: Path) -> None:
    os.rename(model / "steps.dat", model / "steps.bin")
    for name, tensor in (("steps.bin", "steps"), ("conv1/bias:0.dat", "bias:0")):
        with tk.open(model / name) as state:
            assert (state.format, list(state)) == ("nnef-tensor", [tensor])
            assert not state.remarks
    np.testing.assert_array_equal(tk.load(model / "steps.bin")["steps"], arrays()["steps"])


def test_damage_is_not_saved_under_new_digests(tmp_path: Path) -> None:
    tk.save({"a": np.zeros(3, np.float32)}, tmp_path / "state.nnef")
    with open(tmp_path / "state.nnef/a.dat", "r+b") as file:
        file.seek(130)
        file.write(b"\1")
    damaged = pytest.raises(CorruptError, match="the tensor 'a' is damaged")
    for checksums in (None, False, True):
        for target in ("new.nnef", "new.nnef.tar"):
            with tk.open(tmp_path / "state.nnef") as state, damaged:
                tk.save(state, tmp_path / target, checksums=checksums)
    with damaged:
        tk.load(tmp_path / "state.nnef", verify=True)


def test_a_text_that_would_not_be_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_TEXT", 1000)
    many = {f"w{i}": np.ones(1) for i in range(20)}
    with pytest.raises(UnsupportedError, match=r"graph\.nnef would have [0-9,]+ bytes; texts of"):
        tk.save(many, Location(MemoryStore(), "a.nnef"))


def test_a_model_called_as_our_states_are_is_a_model(tmp_path: Path, model: Path) -> None:
    text = (model / "graph.nnef").read_text().replace("graph net(", "graph tensorkeep_state(")
    (model / "graph.nnef").write_text(text)
    with tk.open(model) as state:
        tk.save(state, tmp_path / "copy.nnef")
    with tk.open(tmp_path / "copy.nnef") as state:
        assert document_of(state).name == "tensorkeep_state"


def test_labels() -> None:
    assert all(map(is_label, ["w", "a/b/c", "layer.0/weight:0", "ü b", "w.dat"]))
    wrong = ["", "/a", "a/", "a//b", "../a", "a/..", ".a", "a\\b", "a\0", "a\nb", "it's", "x" * 252]
    wrong += ["graph.nnef/w", "w.dat/x", "\ud800"]
    assert not any(map(is_label, wrong))


def test_a_model_without_its_graph_is_told_as_a_loss(model: Path) -> None:
    with tk.open(model) as state:
        with pytest.raises(LossError, match="the model, 10 operations, is left out"):
            tk.save(state, model.parent / "w.safetensors")
        tk.save(state, model.parent / "w.safetensors", lossy=True)
    assert_equal_states(tk.load(model.parent / "w.safetensors"), arrays())
