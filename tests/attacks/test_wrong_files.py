"""What people open by mistake, and what is not a file at all."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.formats import WRITTEN

VERBS: dict[str, Callable[[Any], Any]] = {
    "open": tk.open,
    "load": tk.load,
    "load-verify": lambda path: tk.load(path, verify=True),
    "load-copy": lambda path: tk.load(path, copy=True),
    "convert": lambda path: tk.convert(path, f"{path}.out.safetensors"),
}

every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
every_name = pytest.mark.parametrize(
    "name", ["model", "model.bin", *(f"model{f.suffixes[0]}" for f in WRITTEN.values())]
)

WRONG: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"{",
    "seven bytes": b"\x10\0\0\0\0\0\0",
    "eight bytes": bytes(8),
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "text": b"These are not the weights you are looking for.\n" * 30,
    "binary": bytes(range(256)) * 8,
    "web page": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>",
    "lower-case web page": b"\n  <html><body>sign in</body></html>",
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\n",
    "gzip": b"\x1f\x8b\x08\0" + bytes(60),
    "pickle that is cut short": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07built",
    "pickle that runs": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "UTF-16 text": "not weights".encode("utf-16"),
    "YAML": b"lr: 0.1\nlayers:\n  - 3\n",
}


@every_verb
@every_name
@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_wrong_content(data: bytes, name: str, verb: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(tk.TensorKeepError) as caught:
        verb(path)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@every_name
def test_a_pointer_is_called_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(WRONG["LFS pointer"])
    with pytest.raises(errors.CorruptError, match=r"Git LFS pointer.*git lfs pull"):
        tk.load(path)


@every_verb
def test_a_missing_file(verb: Callable[[Any], Any], tmp_path: Path) -> None:
    tk.save({"w": np.zeros(1)}, tmp_path / "model-final.safetensors")
    with pytest.raises(errors.MissingError, match=r"Did you mean .*model-final\.safetensors"):
        verb(tmp_path / "model-finale.safetensors")
    with pytest.raises(FileNotFoundError):
        verb(tmp_path / "no" / "such" / "folder.safetensors")


@every_verb
def test_folders(verb: Callable[[Any], Any], tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for path in (folder, f"{folder}/", folder / ".." / "empty"):
        with pytest.raises(errors.UnknownFormatError):
            verb(path)
    inside = folder / "model.safetensors"
    inside.mkdir()
    with pytest.raises(tk.TensorKeepError):
        verb(inside)
    with pytest.raises(tk.TensorKeepError):
        verb(folder)
    with pytest.raises(errors.MissingError):
        verb(f"{tmp_path}/missing/")


def test_a_folder_of_two_models_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tk.save({"w": np.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(errors.UnknownFormatError):
        tk.open(tmp_path)


def test_deep_folders(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    fd = here
    try:
        for _ in range(1100):
            os.mkdir("d", dir_fd=fd)
            deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
            if fd != here:
                os.close(fd)
            fd = deeper
    finally:
        os.close(fd)
        os.close(here)
    try:
        with pytest.raises(tk.TensorKeepError):
            tk.open(tmp_path)
        with pytest.raises(errors.MissingError):
            tk.open(tmp_path / "model.safetensors")
    finally:  # deeper than shutil.rmtree goes
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


@every_verb
def test_a_pipe(verb: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    with pytest.raises(errors.UnsupportedError, match="pipe"):
        verb(path)


@every_verb
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom", "/dev/full"])
def test_a_device(device: str, verb: Callable[[Any], Any], tmp_path: Path) -> None:
    link = tmp_path / "model.safetensors"
    link.symlink_to(device)
    with pytest.raises(errors.UnsupportedError, match="device"):
        verb(link)


def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(tk.TensorKeepError):
            tk.load(path)


@every_verb
def test_links_that_lead_nowhere(verb: Callable[[Any], Any], tmp_path: Path) -> None:
    loop, dangling = tmp_path / "loop.safetensors", tmp_path / "dangling.safetensors"
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "gone")
    with pytest.raises(tk.TensorKeepError):
        verb(loop)
    with pytest.raises(errors.MissingError):
        verb(dangling)


@every_verb
@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300, "d/" * 3000 + "x", "s3://bucket/key"])
def test_paths_that_are_none(path: str, verb: Callable[[Any], Any]) -> None:
    with pytest.raises(tk.TensorKeepError):
        verb(path)


def test_what_may_not_be_read(unprivileged: Path) -> None:
    path = unprivileged / "model.safetensors"
    tk.save({"w": np.zeros(1)}, path)
    path.chmod(0)
    with pytest.raises(errors.StoreError, match="Permission denied"):
        tk.load(path)
    locked = unprivileged / "locked"
    locked.mkdir(mode=0)
    with pytest.raises(tk.TensorKeepError):
        tk.load(locked)
    with pytest.raises(tk.TensorKeepError):
        tk.load(locked / "model.safetensors")
