"""Models that name files which are not theirs: nothing outside their folder is read or written.

Each attack points at a file full of a secret. It is read by nobody (its time of access stays, and
its bytes are in no message and no array), and no save changes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError, UnsafeError

SECRET = b"canary:7f3a" * 100
LENGTH = 1100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the folder of a model, with files around and in it that are none of its business."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (tmp_path / "secret", tmp_path / "outside" / "secret", home / "neighbour"):
        path.write_bytes(SECRET)
        os.utime(path, (1, 1))  # the first read would set the time of access
    return home


def test_a_read_would_be_seen(folder: Path) -> None:
    """The checks of this file are void on a filesystem that keeps no times of access."""
    (folder.parent / "secret").read_bytes()
    if len(list(untouched(folder.parent))) == 2:
        pytest.skip("this filesystem keeps no times of access")


def untouched(tmp_path: Path) -> Iterator[Path]:
    """Give the files of the secret that were not read or changed."""
    for path in (tmp_path / "secret", tmp_path / "outside" / "secret"):
        info = path.stat()
        if (info.st_atime, info.st_mtime, info.st_size) == (1, 1, LENGTH):
            yield path


def model_naming(path: Path, location: str, more: dict[str, str] | None = None) -> None:
    """Write a model whose tensor is said to be in another file."""
    name = location.encode("utf-8", "surrogatepass")
    proto = TensorProto(name="w", data_type=2, dims=[LENGTH], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="?" * len(name))
    for key, value in (more or {}).items():
        proto.external_data.add(key=key, value=value)
    graph = helper.make_graph([], "g", [], [], [proto])
    data = helper.make_model(graph).SerializeToString()
    path.write_bytes(data.replace(b"?" * len(name), name) if name else data)


def refused(target: Path | str, *errors: type[TensorKeepError]) -> str:
    """Open and load a model that is refused; gives the message."""
    with pytest.raises(errors or UnsafeError) as caught, tk.open(target) as state:
        state["w"].numpy()
    with pytest.raises(errors or UnsafeError):
        tk.load(target, copy=True)
    text = str(caught.value)
    assert "canary" not in text
    return text


NAMES = {
    "the parent": "../secret",
    "the parent's parent": "../../secret",
    "down and up": "sub/../../secret",
    "down and up in place": "sub/../neighbour",
    "dots within": "./../secret",
    "many dots": "a/b/../../../secret",
    "itself a parent": "..",
    "the folder": ".",
    "two slashes": "sub//x",
    "a slash behind": "neighbour/",
    "a slash before": "/neighbour",
    "back": "..\\secret",
    "back within": "sub\\..\\..\\secret",
    "a drive": "C:\\secret",
    "a share": "\\\\host\\share",
    "NUL": "neighbour\0",
    "NUL and more": "x\0/../../secret",
    "half a character": "\ud800",
    "an endless part": "x" * 256,
    "dot slash twice": "././neighbour",
    "only dot slash": "./",
}


@pytest.mark.parametrize("location", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("bare", [False, True], ids=["path", "bare name"])
def test_names_that_lead_out(
    folder: Path, location: str, bare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_naming(folder / "m.onnx", location)
    monkeypatch.chdir(folder)
    text = refused("m.onnx" if bare else folder / "m.onnx")
    assert "which is not inside its own folder" in text
    assert len(list(untouched(folder.parent))) == 2


@pytest.mark.parametrize("bare", [False, True], ids=["path", "bare name"])
def test_absolute_paths(folder: Path, bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for target in (folder.parent / "secret", folder / "neighbour", Path("/etc/passwd")):
        model_naming(folder / "m.onnx", str(target))
        assert "not inside its own folder" in refused("m.onnx" if bare else folder / "m.onnx")
    assert len(list(untouched(folder.parent))) == 2


def _link(folder: Path) -> str:
    (folder / "w").symlink_to("../secret")
    return "is a link to"


def _absolute_link(folder: Path) -> str:
    (folder / "w").symlink_to(folder.parent / "secret")
    return "is a link to"


def _link_within(folder: Path) -> str:
    (folder / "w").symlink_to("neighbour")
    return "is a link to .*, or lies behind one, where a model may name files alone"


def _link_of_links(folder: Path) -> str:
    (folder / "one").symlink_to("../outside/secret")
    (folder / "w").symlink_to("one")
    return "is a link to"


def _link_in_a_circle(folder: Path) -> str:
    (folder / "w").symlink_to("w")
    return "link|Too many levels"


def _link_to_nothing(folder: Path) -> str:
    (folder / "w").symlink_to("not-there")
    return "is a link, to nothing"


def _hard_link(folder: Path) -> str:
    os.link(folder.parent / "secret", folder / "w")
    return "is one of 2 names of a file, which may lie anywhere"


def _hard_link_within(folder: Path) -> str:
    os.link(folder / "neighbour", folder / "w")
    return "is one of 2 names of a file"


def _folder(folder: Path) -> str:
    (folder / "w").mkdir()
    return "is a folder, not a file"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "w")
    return "is a pipe or device, not a file"


def _device(folder: Path) -> str:
    (folder / "w").symlink_to("/dev/zero")
    return "is a link to"


THINGS: dict[str, Callable[[Path], str]] = {
    "a link": _link,
    "an absolute link": _absolute_link,
    "a link within": _link_within,
    "a link to a link": _link_of_links,
    "a link in a circle": _link_in_a_circle,
    "a link to nothing": _link_to_nothing,
    "a hard link": _hard_link,
    "a hard link within": _hard_link_within,
    "a folder": _folder,
    "a pipe": _pipe,
    "a device": _device,
}


@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
@pytest.mark.parametrize("bare", [False, True], ids=["path", "bare name"])
def test_things_that_are_no_files_of_the_model(
    folder: Path, make: Callable[[Path], str], bare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make(folder)
    for location in ("w", "./w"):
        model_naming(folder / "m.onnx", location)
        monkeypatch.chdir(folder)
        text = refused("m.onnx" if bare else folder / "m.onnx", TensorKeepError)
        assert re.search(problem, text), text
    assert len(list(untouched(folder.parent))) == 2


@pytest.mark.parametrize("target", ["..", "../outside", "."])
def test_folders_that_are_links(folder: Path, target: str) -> None:
    (folder / "linked").symlink_to(target)
    model_naming(folder / "m.onnx", f"linked/{'neighbour' if target == '.' else 'secret'}")
    assert "is a link to" in refused(folder / "m.onnx")
    assert len(list(untouched(folder.parent))) == 2


def test_the_folder_of_the_model_may_be_reached_through_a_link(folder: Path) -> None:
    """Whoever names the path has chosen it; a model may not."""
    (folder.parent / "link").symlink_to("home")
    model_naming(folder / "m.onnx", "neighbour")
    assert tk.load(folder.parent / "link" / "m.onnx")["w"].tobytes() == SECRET
    model_naming(folder / "m.onnx", "../secret")
    refused(folder.parent / "link" / "m.onnx")
    assert len(list(untouched(folder.parent))) == 2


def test_a_model_may_be_a_link_and_its_files_are_beside_it(folder: Path) -> None:
    """As `onnx` takes it; what lies beside the target of the link is not meant."""
    model_naming(folder.parent / "outside" / "real.onnx", "secret")
    (folder / "m.onnx").symlink_to("../outside/real.onnx")
    with tk.open(folder / "m.onnx") as state:
        assert state.remarks["w"] == "in secret, which is missing"
    (folder / "secret").write_bytes(b"\x01" * LENGTH)
    assert tk.load(folder / "m.onnx")["w"].tolist() == [1] * LENGTH
    assert len(list(untouched(folder.parent))) == 2


def test_the_cache_of_hugging_face(tmp_path: Path) -> None:
    """Snapshots are links into the blobs beside them, which are of the same model."""
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "r1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    model_naming(blobs / "aaaa", "w.bin")
    (blobs / "bbbb").write_bytes(SECRET)
    (snapshot / "m.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "w.bin").symlink_to("../../blobs/bbbb")
    assert tk.load(snapshot / "m.onnx")["w"].tobytes() == SECRET
    (snapshot / "w.bin").unlink()
    (snapshot / "w.bin").symlink_to("../../blobs/cccc")  # not downloaded yet
    with tk.open(snapshot / "m.onnx") as state:
        assert state.remarks["w"] == "in w.bin, which is missing"
    (snapshot / "w.bin").unlink()
    (tmp_path / "secret").write_bytes(SECRET)
    (snapshot / "w.bin").symlink_to("../../../secret")
    assert "is a link to" in refused(snapshot / "m.onnx")


def test_a_swap_while_it_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened is what is looked at: a link that is put there meanwhile is found."""
    model_naming(folder / "m.onnx", "w")
    (folder / "w").write_bytes(bytes(LENGTH))
    real = os.open
    swapped: list[str] = []

    def swapping(path: str, flags: int, *more: object, **named: object) -> int:
        if os.fspath(path).endswith("/w") and not swapped:
            swapped.append(path)
            (folder / "w").rename(folder / "aside")
            (folder / "w").symlink_to("../secret")
            found = real(path, flags, *more, **named)  # type: ignore[arg-type]
            (folder / "w").unlink()
            (folder / "aside").rename(folder / "w")
            return found
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(UnsafeError, match="was replaced while it was opened"):
        tk.open(folder / "m.onnx")
    assert swapped
    assert len(list(untouched(folder.parent))) == 2


WRITTEN = {"w": np.zeros(1000, np.float32)}
ASKED = ["../w", "/tmp/w.data", "sub/../../w", "..", ".", "a\\b", "C:\\w", "w\0", "./w", "linked/w"]


@pytest.mark.parametrize("name", ASKED)
def test_nothing_is_written_outside(folder: Path, name: str) -> None:
    (folder / "linked").symlink_to("../outside")
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    with pytest.raises(UnsafeError):
        tk.save(WRITTEN, folder / "m.onnx", external=name)
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before


LINKS = [
    "a link",
    "an absolute link",
    "a link within",
    "a link to nothing",
    "a hard link",
    "a hard link within",
    "a pipe",
    "a folder",
]


def _all_within(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Give what shows a change of any file; links may be looked at, which their times tell."""
    infos = {path: path.lstat() for path in folder.parent.rglob("*") if path != folder}
    return {
        path: (info.st_ino, info.st_mode, info.st_size, info.st_nlink, info.st_mtime_ns)
        for path, info in infos.items()
    }


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("external", ["w", True], ids=["given", "usual"])
def test_what_is_where_a_file_is_to_be_written(
    folder: Path, kind: str, external: str | bool
) -> None:
    THINGS[kind](folder)
    if external is True:
        (folder / "w").rename(folder / "m.onnx.data")
    before = _all_within(folder)
    with pytest.raises(TensorKeepError):
        tk.save(WRITTEN, folder / "m.onnx", external=external)
    assert _all_within(folder) == before
    assert len(list(untouched(folder.parent))) == 2
    assert (folder / "neighbour").read_bytes() == SECRET


@pytest.mark.parametrize("kind", ["a link within", "a hard link", "a hard link within"])
def test_links_in_the_place_of_a_models_own_file(folder: Path, kind: str) -> None:
    """A model whose data file was replaced by a link is saved anew: the target stays."""
    tk.save(WRITTEN, folder / "m.onnx", external=True)
    (folder / "m.onnx.data").unlink()
    THINGS[kind](folder)
    (folder / "w").rename(folder / "m.onnx.data")
    tk.save({"w": np.ones(1000, np.float32)}, folder / "m.onnx", external=True)
    assert tk.load(folder / "m.onnx")["w"].tolist() == [1] * 1000
    (found,) = onnx.load(folder / "m.onnx").graph.initializer
    assert found.raw_data == np.ones(1000, np.float32).tobytes()
    assert not (folder / "m.onnx.data").is_symlink()
    assert len(list(untouched(folder.parent))) == 2
    assert (folder / "neighbour").read_bytes() == SECRET


def test_a_link_that_leads_out_in_the_place_of_a_models_own_file(folder: Path) -> None:
    tk.save(WRITTEN, folder / "m.onnx", external=True)
    (folder / "m.onnx.data").unlink()
    (folder / "m.onnx.data").symlink_to("../secret")
    before = (folder / "m.onnx").read_bytes()
    with pytest.raises(UnsafeError, match=r"is a link to .*outside its own folder"):
        tk.save({"w": np.ones(1000, np.float32)}, folder / "m.onnx", external=True)
    assert (folder / "m.onnx").read_bytes() == before
    assert len(list(untouched(folder.parent))) == 2


def test_keys_that_are_not_known_do_nothing(folder: Path) -> None:
    """Such as those that would set attributes of an object in other readers."""
    more = {"basepath": "../..", "__class__": "x", "checksum": "0" * 40, "location2": "../secret"}
    model_naming(folder / "m.onnx", "neighbour", more)
    assert tk.load(folder / "m.onnx")["w"].tobytes() == SECRET
    assert len(list(untouched(folder.parent))) == 2


def test_a_location_that_is_there_twice(folder: Path) -> None:
    """The last one counts, for the check as for the reading."""
    model_naming(folder / "m.onnx", "neighbour", {"location": "../secret"})
    assert "not inside its own folder" in refused(folder / "m.onnx")
    model_naming(folder / "m.onnx", "../secret", {"location": "neighbour"})
    assert tk.load(folder / "m.onnx")["w"].tobytes() == SECRET
    assert len(list(untouched(folder.parent))) == 2
