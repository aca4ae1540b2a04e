"""Keras files made to run code, to reach other files, or to fill the memory."""

from __future__ import annotations

import base64
import io
import json
import marshal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

METADATA = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "dense", "units": 1}}


def weights(change: Callable[[h5py.File], object] | None = None) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 1), np.float32)
        if change:
            change(file)
    return out.getvalue()


def archive(
    config: Any = DENSE,
    *,
    h5: bytes | None = None,
    more: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    out = io.BytesIO()
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    members = {"metadata.json": json.dumps(METADATA).encode(), "config.json": text}
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in {**members, "model.weights.h5": h5 or weights(), **(more or {})}.items():
            file.writestr(name, data)
    return out.getvalue()


def legacy(change: Callable[[h5py.File], object] | None = None, **attributes: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        group.create_group("dense").attrs["weight_names"] = [b"dense/kernel:0"]
        group["dense/dense/kernel:0"] = np.ones((2, 1), np.float32)
        file.attrs["model_config"] = json.dumps(DENSE)
        for name, value in attributes.items():
            file.attrs[name] = value
        if change:
            change(file)
    return out.getvalue()


def at(data: bytes, key: str = "model.keras") -> Location:
    return Location(MemoryStore({key: data}), key)


def refused(data: bytes, kind: type[TensorKeepError], problem: str, key: str = "a.keras") -> None:
    start = time.perf_counter()
    with pytest.raises(kind, match=problem):
        tk.load(at(data, key))
    assert time.perf_counter() - start < 5


def code_of(data: bytes, key: str = "a.keras") -> list[str]:
    with tk.open(at(data, key)) as state:
        assert tk.load(at(data, key))
        keras = state.metadata["keras"]
        assert isinstance(keras, dict)
        return list(map(str, keras.get("code", [])))  # type: ignore[arg-type]


@pytest.fixture
def quiet() -> Iterator[None]:
    """Fail where anything is imported, compiled, unmarshalled, evaluated or started."""
    events: list[str] = []
    watching = True

    def watch(event: str, _: Any) -> None:
        if watching and event in ("import", "marshal.loads", "compile", "exec", "os.system"):
            events.append(event)

    sys.addaudithook(watch)
    yield
    watching = False
    assert events == []


# --- what would run code ------------------------------------------------------------------------


def layer(kind: str, module: str | None = None, **config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"class_name": kind, "config": {"name": "it", **config}}
    return found if module is None else {**found, "module": module}


PAYLOAD = base64.b64encode(marshal.dumps(compile("open('/tmp/owned', 'w')", "x", "exec"))).decode()
LAMBDA = {"class_name": "__lambda__", "config": {"code": PAYLOAD}}

CODE = {
    "a lambda": (
        layer("Lambda", "keras.layers", function=LAMBDA),
        "it: a lambda of Python bytecode",
    ),
    "an old lambda": (
        layer("Lambda", function=[PAYLOAD, None, None], function_type="lambda"),
        "it: Lambda of Python bytecode",
    ),
    "another module": (layer("system", "os", command="id"), "it: system of the module os"),
    "a submodule": (
        layer("Popen", "keras_evil.layers"),
        "it: Popen of the module keras_evil.layers",
    ),
    "a function of Keras's": (
        layer("get_file", "keras.utils", origin="http://example.org"),
        "it: get_file of the module keras.utils",
    ),
    "a builtin": (layer("exec", "builtins"), "it: exec of the module builtins"),
    "a dotted class": (layer("utils.get_file", "keras"), "it: utils.get_file of the module keras"),
    "a registered class": (
        {**layer("Own", ""), "module": None, "registered_name": "mine>Own"},
        "it: Own, registered as mine>Own",
    ),
    "a pickle": (
        layer("TorchModuleWrapper", "keras.layers", pickled="gASVAA=="),
        "it: TorchModuleWrapper of a pickled PyTorch module",
    ),
    "a SavedModel": (
        layer("TFSMLayer", "keras.layers", filepath="/etc"),
        "it: TFSMLayer of a TensorFlow SavedModel to load",
    ),
}


@pytest.mark.parametrize(("config", "told"), CODE.values(), ids=CODE)
def test_code_is_data(config: dict[str, Any], told: str, request: pytest.FixtureRequest) -> None:
    model = {**DENSE, "config": {"name": "model", "layers": [DENSE, config]}}
    new, old = archive(model), legacy(model_config=json.dumps(model))
    code_of(archive()), code_of(legacy(), "a.h5")  # what is imported once is so by now
    request.getfixturevalue("quiet")
    assert code_of(new) == [told]
    assert code_of(old, "a.h5") == [told]


def test_code_cannot_hide_behind_what_is_not_json() -> None:
    config = b'{"class_name": "Lambda", "config": {"x": NaN}}'
    assert code_of(archive(config)) == [
        "all of it: it is kept as text, since it holds a NaN or an infinity"
    ]


def test_a_layer_of_keras_carries_no_code() -> None:
    with tk.open(at(archive())) as state:
        assert "code" not in state.metadata["keras"]  # type: ignore[operator]


# --- bombs of JSON ------------------------------------------------------------------------------

BOMBS = {
    "deep": (b"[" * 100_000, CorruptError, "nested too deeply"),
    "deep enough": (b'{"a":' * 300 + b"1" + b"}" * 300, UnsafeError, "nests over 200 levels"),
    "duplicates": (b'{"module": "keras", "module": "os"}', CorruptError, "'module' twice"),
    "wide": (b"[" + b"1," * 5_000_000 + b"1]", UnsafeError, "more than 4,000,000 values"),
    "no object": (b"[1]", CorruptError, "a list of 1, not an object"),
    "no text": (b'{"a": "\xff"}', CorruptError, "not UTF-8"),
    "broken": (b'{"a": ', CorruptError, "is broken at character"),
    "a number": (b'{"a": ' + b"9" * 10_000 + b"}", CorruptError, "cannot be read"),
}


@pytest.mark.parametrize(("text", "kind", "problem"), BOMBS.values(), ids=BOMBS)
def test_configs_that_are_bombs(text: bytes, kind: type[TensorKeepError], problem: str) -> None:
    refused(archive(text), kind, problem)
    if len(text) < 60_000 and b"\xff" not in text:
        refused(legacy(model_config=text.decode()), kind, problem, "a.h5")
        refused(legacy(training_config=text.decode()), kind, problem, "a.h5")


def test_a_config_that_inflates_without_end() -> None:
    data = archive(b" " * (65 << 20) + b"{}", method=zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    refused(data, UnsafeError, "its config.json of 68,157,442 bytes is over the limit")


# --- bombs and slips of zip ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/cron.d/evil", "assets/../../evil", "a\\..\\b"]
)
def test_members_that_lead_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "model.keras"
    path.parent.mkdir()
    path.write_bytes(archive(more={name: b"owned"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsafeError, match="could lead out of a folder"):
        tk.load(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_inflate_without_end() -> None:
    """The directory alone tells: two megabytes would become over a gigabyte."""
    noise = np.random.default_rng(7).bytes(2 << 20)
    data = bytearray(archive(h5=noise, method=zipfile.ZIP_DEFLATED))
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1 << 30 | 1).to_bytes(4, "little")
    refused(bytes(data), UnsafeError, "which only a zip bomb does")


def test_deflated_weights_are_read() -> None:
    data = archive(method=zipfile.ZIP_DEFLATED)
    assert tk.load(at(data), verify=True)["layers.dense.vars.0"].tolist() == [[1], [1]]


def test_a_member_twice() -> None:
    out = io.BytesIO(archive())
    with zipfile.ZipFile(out, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("config.json", b"{}")
    refused(out.getvalue(), CorruptError, "lists a member twice")


def test_other_members_are_told_of() -> None:
    with tk.open(at(archive(more={"payload.py": b"import os"}))) as state:
        assert state.metadata["keras"]["not read"] == ["payload.py"]  # type: ignore[index,call-overload]


# --- HDF5 that reaches out ----------------------------------------------------------------------


def external_storage(file: h5py.File) -> None:
    file.create_dataset("layers/dense/vars/1", (8,), "u1", external=[("/etc/hostname", 0, 8)])


def external_link(file: h5py.File) -> None:
    file["layers/dense/vars/1"] = h5py.ExternalLink("/tmp/other.h5", "/secret")


def external_group(file: h5py.File) -> None:
    file["layers/evil"] = h5py.ExternalLink("/tmp/other.h5", "/")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "secret", (8,))
    file.create_virtual_dataset("layers/dense/vars/1", layout)


def huge(file: h5py.File) -> None:
    file.create_dataset("layers/dense/vars/1", (1 << 40,), "f4", chunks=(1 << 20,))


REACHING = {
    external_storage: "keeps its elements outside, in the file '/etc/hostname'",
    external_link: "is an external link, to '/secret' in the file '/tmp/other.h5'",
    external_group: "is an external link",
    virtual: "is a virtual dataset",
    huge: "says it holds 4,398,046,511,104 bytes",
}


@pytest.mark.parametrize(("change", "problem"), REACHING.items())
def test_arrays_elsewhere(change: Callable[[h5py.File], object], problem: str) -> None:
    refused(archive(h5=weights(change)), UnsafeError, problem)
    refused(weights(change), UnsafeError, problem, "a.weights.h5")
    refused(legacy(change), UnsafeError, problem, "a.h5")


def test_layers_that_are_links() -> None:
    def change(file: h5py.File) -> None:
        del file["model_weights/dense"]
        file["model_weights/dense"] = h5py.ExternalLink("/tmp/other.h5", "/")

    refused(legacy(change), UnsafeError, "is an external link", "a.h5")

    def whole(file: h5py.File) -> None:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink("/tmp/other.h5", "/")

    refused(legacy(whole), UnsafeError, "is an external link", "a.h5")


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "dense/../dense/kernel:0", "", "x"]
)
def test_weights_that_are_not_there(name: str) -> None:
    def change(file: h5py.File) -> None:
        file["model_weights/dense"].attrs["weight_names"] = [name]

    refused(legacy(change), CorruptError, "which is not there", "a.h5")


def test_lists_of_names_that_are_none() -> None:
    for value in (3, "dense", [1, 2], [[b"dense"]], np.ones(3)):

        def change(file: h5py.File, value: Any = value) -> None:
            file["model_weights"].attrs["layer_names"] = value

        refused(legacy(change), CorruptError, "not a (list of )?names?", "a.h5")


def test_a_layer_twice() -> None:
    def change(file: h5py.File) -> None:
        file["model_weights"].attrs["layer_names"] = [b"dense", b"dense"]

    refused(legacy(change), CorruptError, "the layer 'dense' twice", "a.h5")


def test_a_config_that_is_no_text() -> None:
    for value in (3, [b"a"], np.ones(4), np.array([1j])):
        with tk.open(at(legacy(model_config=value), "a.h5")) as state:
            assert "model_config" not in state.metadata["keras"]  # type: ignore[operator]
