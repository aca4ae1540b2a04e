"""PyTorch files whose pickle tries to run something, lies about its tensors or has no end."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors

FLOATS = np.arange(4, dtype="<f4").tobytes()


def archive(
    path: Path, program: bytes, storages: dict[str, bytes] | None = None, **more: bytes
) -> Path:
    """Write a file with any pickle; the storage "0" holds four floats unless others are given."""
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive/data.pkl", program)
        for key, data in ({"0": FLOATS} if storages is None else storages).items():
            zipped.writestr(f"archive/data/{key}", data)
        for name, data in more.items():
            zipped.writestr(f"archive/{name}", data)
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", kind: str = "FloatStorage", numel: int = 4) -> bytes:
    return (
        b"("
        + text("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + text(key)
        + text("cpu")
        + number(numel)
        + b"tQ"
    )


def tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (2, 2),
    strides: tuple[int, ...] = (2, 1),
    held: bytes | None = None,
) -> bytes:
    """Give the instructions that push a tensor."""
    parts = (
        (storage() if held is None else held) + number(offset) + numbers(shape) + numbers(strides)
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"\x89ccollections\nOrderedDict\n)RtR"


def entries(**values: bytes) -> bytes:
    """Give a whole pickle of a dict."""
    body = b"".join(text(key) + value for key, value in values.items())
    return b"\x80\x02}(" + body + b"u."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_the_helper_makes_a_good_file(path: Path) -> None:
    archive(path, entries(w=tensor(), t=tensor(strides=(1, 2))))
    found = tk.load(path)
    assert found["w"].tolist() == [[0, 1], [2, 3]]
    assert found["t"].tolist() == [[0, 2], [1, 3]]


# --- what would run -----------------------------------------------------------------------------

COMMAND = text("touch ran")
CALLS: dict[str, tuple[bytes, str]] = {
    "GLOBAL and REDUCE": (b"cos\nsystem\n" + COMMAND + b"\x85R", "os.system"),
    "posix": (b"cposix\nsystem\n" + COMMAND + b"\x85R", "posix.system"),
    "STACK_GLOBAL": (text("os") + text("system") + b"\x93" + COMMAND + b"\x85R", "os.system"),
    "a memoized name": (
        text("os") + b"\x94" + text("system") + b"\x94\x93\x94" + COMMAND + b"\x85R",
        "os.system",
    ),
    "INST": (b"(" + COMMAND + b"ios\nsystem\n", "os.system"),
    "OBJ": (b"(cos\nsystem\n" + COMMAND + b"o", "os.system"),
    "NEWOBJ": (b"csubprocess\nPopen\n" + COMMAND + b"\x85\x81", "subprocess.Popen"),
    "NEWOBJ_EX": (
        b"csubprocess\nPopen\n)}" + text("args") + COMMAND + b"s\x92",
        "subprocess.Popen",
    ),
    "BUILD": (b"csite\nQuitter\n)\x81}" + text("name") + COMMAND + b"sb", "site.Quitter"),
    "a dotted name": (
        b"ctorch.serialization\nos.system\n" + COMMAND + b"\x85R",
        "torch.serialization.os.system",
    ),
    "a dotted name in a module that is allowed": (
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n" + COMMAND + b"\x85R",
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "a module that begins like one": (
        b"ctorch._utils_evil\n_rebuild_tensor_v2\n" + COMMAND + b"\x85R",
        "torch._utils_evil._rebuild_tensor_v2",
    ),
    "another name of a module": (
        b"ctorch._utils\nimport_module\n" + COMMAND + b"\x85R",
        "torch._utils.import_module",
    ),
    "eval": (b"c__builtin__\neval\n" + COMMAND + b"\x85R", "__builtin__.eval"),
    "exec": (b"cbuiltins\nexec\n" + COMMAND + b"\x85R", "builtins.exec"),
    "getattr": (b"cbuiltins\ngetattr\n" + COMMAND + b"\x85R", "builtins.getattr"),
    "a builtin shadowed": (b"cbuiltins\nset.__init__\n)R", "builtins.set.__init__"),
    "import": (b"cbuiltins\n__import__\n" + COMMAND + b"\x85R", "builtins.__import__"),
    "apply": (b"coperator\nmethodcaller\n" + COMMAND + b"\x85R", "operator.methodcaller"),
    "partial": (b"cfunctools\npartial\n" + COMMAND + b"\x85R", "functools.partial"),
    "loads": (b"cpickle\nloads\nC\x01.\x85R", "pickle.loads"),
    "torch.load": (
        b"ctorch.storage\n_load_from_bytes\nC\x01.\x85R",
        "torch.storage._load_from_bytes",
    ),
    "numpy.load": (b"cnumpy\nload\n" + COMMAND + b"\x85R", "numpy.load"),
    "dill": (b"cdill._dill\n_create_function\n)R", "dill._dill._create_function"),
    "an extension": (b"\x82\x01)R", "copyreg.extension_1"),
    "a wide extension": (b"\x84\xff\xff\xff\x7f)R", "copyreg.extension_2147483647"),
    "a subclass": (
        b"ctorch._utils\n_rebuild_wrapper_subclass\n)R",
        "torch._utils._rebuild_wrapper_subclass",
    ),
    "a class of a tensor": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncos\nsystem\n("
        + storage() + number(0) + numbers((4,)) + numbers((1,)) + b"\x89}t}tR",
        "os.system",
    ),
    "a function for a tensor": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n("
        + COMMAND + b"t}tR",
        "os.system",
    ),
    "reconstructor": (
        b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\ncbuiltins\nobject\nNtR",
        "subprocess.Popen",
    ),
    "a factory": (b"ccollections\ndefaultdict\ncos\nsystem\n\x85R", "os.system"),
    "a type of an array": (
        b"cnumpy._core.multiarray\n_reconstruct\n(csubprocess\nPopen\nK\0\x85C\x01btR",
        "subprocess.Popen",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "name"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "thrown away"])
def test_nothing_runs(
    attack: bytes, name: str, hidden: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*args: Any, **kwargs: Any) -> None:
        pytest.fail("ran")

    for owner, function in ((os, "system"), (subprocess, "Popen"), (pickle, "loads")):
        monkeypatch.setattr(owner, function, ran)
    monkeypatch.chdir(path.parent)
    known = set(sys.modules)
    program = entries(w=tensor(), x=attack + (b"0N" if hidden else b""))
    archive(path, program)
    with tk.open(path) as state:
        assert any(name in sentence for sentence in state.refused), state.refused
        assert state["w"].numpy().tolist() == [[0, 1], [2, 3]]
    with pytest.raises(errors.UnsafeError, match="nothing that a file names is run") as caught:
        tk.load(path)
    assert name in str(caught.value)
    assert str(path) in str(caught.value)
    assert tk.load(path, names="w")["w"].tolist() == [[0, 1], [2, 3]]
    target = path.with_suffix(".safetensors")
    with pytest.raises(errors.LossError, match="not everything in it is data") as lost:
        tk.convert(path, target)
    assert name in str(lost.value)
    assert not target.exists()
    assert any(name in sentence for sentence in tk.convert(path, target, lossy=True))
    assert tk.load(target)["w"].tolist() == [[0, 1], [2, 3]]
    assert not (path.parent / "ran").exists()
    assert {module.partition(".")[0] for module in set(sys.modules) - known} <= {
        "tensorkeep",
        "_hashlib",
    }


def test_the_registry_of_extensions_is_not_asked(path: Path) -> None:
    copyreg.add_extension("os", "system", 77)
    try:
        archive(path, entries(x=b"\x82\x4d" + COMMAND + b"\x85R"))
        with tk.open(path) as state:
            assert state.refused == ("'x' would need copyreg.extension_77",)
    finally:
        copyreg.remove_extension("os", "system", 77)


class Evil:
    """An object that runs something when it is unpickled, however it is pickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("protocol", range(6))
def test_real_pickles_of_an_attacker(
    protocol: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    archive(path, pickle.dumps({"a": [Evil()], "n": 1}, protocol))
    with tk.open(path) as state:
        assert state.refused == (f"'a.0' would need {os.system.__module__}.system",)
    assert not (path.parent / "ran").exists()


def test_a_persistent_identifier_that_is_no_storage(path: Path) -> None:
    for identifier in (b"N", text("storage"), b")", b"(" + text("module") + b"cos\nsystem\nNNt"):
        archive(path, b"\x80\x02" + identifier + b"Q.")
        with pytest.raises(errors.CorruptError, match="something else than a storage"):
            tk.open(path)
    archive(path, b"\x80\x02" + storage().replace(b"torch\nFloatStorage", b"os\nsystem") + b".")
    with pytest.raises(errors.CorruptError, match="unknown class"):
        tk.open(path)


# --- lies about tensors -------------------------------------------------------------------------

LIES: dict[str, tuple[bytes, str]] = {
    "a long axis": (tensor(shape=(5,), strides=(1,)), "needs 20 bytes, but its storage has 16"),
    "a long stride": (tensor(shape=(2,), strides=(4,)), "needs 20 bytes"),
    "an offset at the end": (tensor(offset=4, shape=(1,), strides=(1,)), "needs 20 bytes"),
    "a huge offset": (tensor(offset=2**62), "needs .* bytes, but its storage has 16"),
    "an offset that wraps": (tensor(offset=2**64 - 1), "make none"),
    "a negative offset": (tensor(offset=-1), "make none"),
    "a negative stride": (tensor(strides=(-2, 1)), "make none"),
    "a negative axis": (tensor(shape=(-2, 2)), "make none"),
    "a stride that wraps": (tensor(strides=(2**63, 1)), "make none"),
    "strides whose sum wraps": (
        tensor(shape=(3, 3), strides=(2**62, 2**62)),
        "needs .* bytes, but its storage has 16",
    ),
    "axes whose product wraps": (
        tensor(shape=(2**32, 2**32), strides=(0, 0)),
        "far larger than the file",
    ),
    "an axis beyond any array": (tensor(shape=(2**60,), strides=(0,)), "make none"),
    "a huge expansion": (tensor(shape=(2**40,), strides=(0,)), "far larger than the file"),
    "fewer strides than axes": (tensor(strides=(1,)), "make none"),
    "many axes": (tensor(shape=(1,) * 65, strides=(1,) * 65), "make none"),
    "a storage that is a number": (tensor(held=b"K\x01"), "make none"),
    "a storage of a stranger": (tensor(held=b"cos\nsystem\n"), "make none"),
    "a storage that is not there": (tensor(held=storage(key="1")), "lacks the storage '1'"),
    "a larger storage than there is": (
        tensor(held=storage(numel=5)),
        "takes 20 bytes, but its member has 16",
    ),
    "a smaller storage than there is": (tensor(held=storage(numel=3)), "takes 12 bytes"),
    "a wider type than there is": (tensor(held=storage(kind="DoubleStorage")), "takes 32 bytes"),
    "a storage of negative size": (tensor(held=storage(numel=-1)), "without a key or a size"),
    "a storage beyond memory": (tensor(held=storage(numel=2**61)), "without a key or a size"),
    "a storage outside": (tensor(held=storage(key="../../data/0")), "lacks the storage"),
    "a storage by two names": (
        b"]" + tensor() + b"a" + tensor(held=storage(kind="IntStorage")) + b"a",
        "in two ways",
    ),
    "a type that is none": (
        b"ctorch._utils\n_rebuild_tensor_v3\n("
        + storage() + number(0) + numbers((4,)) + numbers((1,)) + b"\x89}cos\nsystem\ntR",
        "unknown type",
    ),
    "a size in text": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + text("0") + b"))\x89}tR",
        "make none",
    ),
    "too few arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "with what it does not take"),
    "a name that is called": (b"ctorch\nfloat32\n)R", "never called"),
    "a storage class that is called": (b"ctorch\nFloatStorage\n)R", "never called"),
    "an array of other bytes": (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x03abccnumpy\ndtype\n" + text("f4")
        + b"\x89\x88\x87R" + numbers((4,)) + text("C") + b"tR",
        "3 bytes where its shape takes 16",
    ),
    "an array beyond memory": (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n" + text("f4")
        + b"\x89\x88\x87R" + numbers((2**40, 2**40)) + text("C") + b"tR",
        "impossible shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("program", "match"), LIES.values(), ids=LIES)
def test_lies_about_tensors(program: bytes, match: str, path: Path) -> None:
    archive(path, entries(x=program))
    with pytest.raises((errors.CorruptError, errors.UnsafeError), match=match) as caught:
        tk.open(path)
    assert str(path) in str(caught.value)


def test_many_expansions_together(path: Path) -> None:
    wide = b"".join(text(f"{n}") + tensor(shape=(2**20,), strides=(0,)) for n in range(2))
    many = b"".join(text(f"{n}") + tensor(shape=(2**24 + n,), strides=(0,)) for n in range(40))
    archive(path, b"\x80\x02}(" + wide + b"u.")
    assert tk.load(path)["1"].shape == (2**20,)
    archive(path, b"\x80\x02}(" + many + b"u.")
    with pytest.raises(errors.UnsafeError, match="far larger than the file"):
        tk.open(path)


# --- structures without end ---------------------------------------------------------------------


def test_what_holds_itself(path: Path) -> None:
    archive(path, b"\x80\x02]q\0h\0a" + tensor() + b"a.")
    with tk.open(path) as state:
        assert state.refused == ("'0' holds itself",)
        assert list(state) == ["1"]
    archive(path, b"\x80\x02}q\0" + text("a") + b"h\0\x85s.")
    with pytest.raises(errors.UnsafeError, match=r"'a\.0' holds itself"):
        tk.load(path)
    built = b"cm\nT\n)\x81q\0}(" + text("_modules") + b"}" + text("b") + b"h\0sub."
    archive(path, b"\x80\x02" + built)
    with tk.open(path) as state:
        assert state.refused[1] == "'b' holds itself"


def test_deep_nesting(path: Path) -> None:
    archive(path, b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".")
    with tk.open(path) as state:
        assert "is nested deeper than 100 levels" in state.refused[0]


def test_billions_of_laughs(path: Path) -> None:
    laugh = b"]" + b"(" + text("ha") * 10 + b"e"
    bomb = laugh + b"".join(
        b"q" + bytes([n]) + b"](" + (b"h" + bytes([n])) * 10 + b"e" for n in range(30)
    )
    before = time.process_time()
    archive(path, b"\x80\x02(" + bomb + b"t.")
    with pytest.raises((errors.UnsafeError, errors.CorruptError), match=r"repeats|stack"):
        tk.open(path)
    archive(
        path, b"\x80\x02" + text("a" * 1000) + b"q\0]" + (b"(" + b"h\0" * 900_000 + b"e") + b"\x86."
    )
    with pytest.raises(errors.UnsafeError, match="letters, since it repeats"):
        tk.open(path)
    assert time.process_time() - before < 20


def test_objects_that_hold_one_another_twice(path: Path) -> None:
    pair = b"cm\nT\n)\x81q\x01}(" + text("a") + b"h\0" + text("b") + b"h\0ub"
    archive(path, b"\x80\x02cm\nT\n)\x81q\0" + pair + b"0}" + text("c") + b"h\x01sb.")
    with tk.open(path) as state:
        assert "holds itself" in " ".join(state.refused)


# --- the archive --------------------------------------------------------------------------------


def test_members_that_lead_out(path: Path) -> None:
    archive(path, entries(w=tensor()), storages={"0": FLOATS, "../../../evil": b"x"})
    with pytest.raises(errors.UnsafeError, match="could lead out of a folder"):
        tk.open(path)
    assert list(path.parent.iterdir()) == [path]


def test_two_pickles(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", b"N.")
        zipped.writestr("b/data.pkl", b"N.")
    with pytest.raises(errors.CorruptError, match=r"2 members called data\.pkl"):
        tk.open(path)


def test_a_byte_order_that_is_none(path: Path) -> None:
    archive(path, entries(w=tensor()), byteorder=b"middle")
    with pytest.raises(errors.CorruptError, match="its byte order is b'middle'"):
        tk.open(path)


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
SYSTEM = pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2)


def legacy(keys: bytes, rest: bytes, program: bytes | None = None) -> bytes:
    return LEGACY + SYSTEM + (program or entries(w=tensor())) + keys + rest


VIEW = storage()[:-2] + b"(" + text("v") + number(3) + number(2) + b"ttQ"
OLD: dict[str, tuple[bytes, str]] = {
    "no storages": (legacy(pickle.dumps([], 2), b""), "lacks the storage '0'"),
    "a storage too many": (legacy(pickle.dumps(["0", "1"], 2), b""), "are 0|bytes|ends|were asked"),
    "a storage that nobody uses": (
        legacy(pickle.dumps(["0", "1"], 2), struct.pack("<q", 4) + FLOATS),
        "no tensor uses",
    ),
    "keys that are numbers": (legacy(pickle.dumps([0], 2), b""), "the keys of its storages"),
    "no keys": (legacy(b"N.", b""), "how its storages are kept"),
    "another size": (
        legacy(pickle.dumps(["0"], 2), struct.pack("<q", 5) + FLOATS),
        "has 5 elements",
    ),
    "a size that wraps": (legacy(pickle.dumps(["0"], 2), b"\xff" * 8), "elements, not 4"),
    "cut short": (legacy(pickle.dumps(["0"], 2), struct.pack("<q", 4) + b"abc"), "cut short"),
    "another version": (LEGACY.replace(b"M\xe9\x03", b"M\xea\x03") + SYSTEM, "version 1001"),
    "a view outside": (
        legacy(b"", b"", entries(w=tensor(held=VIEW))),
        "not inside its storage",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), OLD.values(), ids=OLD)
def test_lies_in_older_files(data: bytes, match: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(errors.TensorKeepError, match=match) as caught:
        tk.open(path)
    assert str(path) in str(caught.value)


def test_older_files_run_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    attack = b"cos\nsystem\n" + COMMAND + b"\x85R"
    keys = pickle.dumps(["0"], 2)
    good = struct.pack("<q", 4) + FLOATS
    path.write_bytes(legacy(keys, good, entries(w=tensor(), x=attack)))
    with tk.open(path) as state:
        assert state.refused == ("'x' would need os.system",)
    evil = LEGACY + b"\x80\x02" + attack + b"." + entries(w=tensor()) + keys + good
    path.write_bytes(evil)
    with pytest.raises(errors.CorruptError, match="how its storages are kept"):
        tk.open(path)
    assert not (path.parent / "ran").exists()
