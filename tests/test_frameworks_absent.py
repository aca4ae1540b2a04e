"""Without PyTorch and JAX everything but their own arrays works, and the error says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import frameworks
from tensorkeep.errors import ArgumentError, MissingDependencyError, UnsupportedError
from tensorkeep.integrations import keras, lightning, transformers

LIBRARIES = ["jax", "torch"]
every_library = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def save_as(library: str, path: Path) -> None:
    """Write what a state of the library's arrays is written as."""
    tensors = {"w": tk.Tensor.of(np.arange(3, dtype=np.float32))}
    tk.save(tk.State(tensors, skeleton={"framework": library, "tree": [{"w": "$:w"}, 3]}), path)


@every_library
def test_its_arrays_need_it(library: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # Python refuses to import it now
    save_as(library, path)
    with pytest.raises(MissingDependencyError) as caught:
        tk.load(path)
    assert isinstance(caught.value, ImportError)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert f'pip install "tensorkeep[{library}]"' in message
    assert 'framework="numpy"' in message
    with pytest.raises(MissingDependencyError, match=library):
        tk.load(path, names="*")


@every_library
def test_the_cure_works(library: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    save_as(library, path)
    nested, three = tk.load(path, framework="numpy")
    assert nested["w"].tolist() == [0, 1, 2]
    assert three == 3
    with tk.open(path) as state:
        assert state["w"].numpy().tolist() == [0, 1, 2]


@every_library
def test_plain_arrays_need_it_only_when_it_is_asked_for(
    library: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    tk.save({"w": np.ones(2)}, path)
    assert tk.load(path)["w"].tolist() == [1, 1]
    with pytest.raises(MissingDependencyError, match=library):
        tk.load(path, framework=library)


@every_library
def test_a_broken_installation_is_told(
    library: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / f"{library}.py").write_text("raise OSError('libexample.so is missing')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, library, raising=False)
    save_as(library, path)
    with pytest.raises(MissingDependencyError, match=r"cannot be imported: libexample\.so"):
        tk.load(path)


@every_library
def test_saving_works_while_another_thread_imports_it(
    library: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, ModuleType(library))  # its names come last
    tk.save({"w": tk.Tensor.of(np.ones(2)), "n": 1}, path)
    assert tk.load(path)["w"].tolist() == [1, 1]
    with pytest.raises(UnsupportedError, match=r"^a: is a .*object"):
        tk.save({"a": object()}, path)


def test_nothing_imports_them_unasked(path: Path) -> None:
    code = (
        "import sys, numpy as np, tensorkeep as tk\n"
        "tk.save([{'w': np.ones(2)}, 1.5, 'text'], sys.argv[1])\n"
        "tk.load(sys.argv[1], dtype='bfloat16')\n"
        "tk.load(sys.argv[1], framework='numpy', device='cpu', copy=True)\n"
        "print(sorted({'torch', 'jax', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_there_is_no_such_framework(path: Path) -> None:
    tk.save({"w": np.ones(2)}, path)
    with pytest.raises(ArgumentError, match=r"'tourch'.*jax, numpy, torch"):
        tk.load(path, framework="tourch")


def test_a_file_may_name_a_framework_of_the_future(path: Path) -> None:
    save_as("thorch", path)
    with pytest.raises(UnsupportedError, match=r"state\.safetensors: .*'thorch'.*Update") as caught:
        tk.load(path)
    assert not isinstance(caught.value, ArgumentError)
    assert tk.load(path, framework="numpy")[0]["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("device", ["cuda", "cpu:0", 1])
def test_numpy_has_no_devices(path: Path, device: str) -> None:
    for state in ({"w": np.ones(2)}, [np.ones(2), 3]):
        tk.save(state, path)
        with pytest.raises(ArgumentError, match='framework="torch" or "jax"'):
            tk.load(path, framework="numpy", device=device)
        with pytest.raises(ArgumentError, match='framework="torch" or "jax"'):
            tk.load(path, device=device)
    assert tk.load(path, framework="numpy", device="cpu")[0].sum() == 2


class Foreign:
    """An array of a library that is not known here."""

    def numpy(self) -> list[float]:
        return [1.0]


def test_arrays_of_other_libraries_are_refused_with_a_cure(path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"^opt\.0: is a .*Foreign, .*Keep its \.numpy\(\)"):
        tk.save({"opt": [Foreign()]}, path)
    assert not path.exists()


def test_a_reader_knows_a_value_again() -> None:
    read = frameworks.reader()
    array = np.arange(3)
    first, again, copy = read(array, "a"), read(array, "b"), read(array.copy(), "c")
    assert first is not None
    assert again is not None
    assert copy is not None
    assert first[0] == "numpy"
    assert first[1] is again[1] is array
    assert copy[1] is not array
    assert read({"a": 1}, "d") is None


@pytest.mark.parametrize(
    ("made", "library"),
    [
        (keras.callback, "keras"),
        (lightning.callback, "lightning"),
        (transformers.callback, "transformers"),
    ],
)
def test_an_integration_says_what_it_needs(
    made: Callable[[tk.Checkpointer], object],
    library: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (library, "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with (
        tk.Checkpointer(tmp_path) as checkpointer,
        pytest.raises(MissingDependencyError, match=f"Run pip install {library}"),
    ):
        made(checkpointer)
