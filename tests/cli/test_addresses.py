"""Every command over s3:// and http:// addresses, as over files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import Run, is_safe, state
from tests.models.running.making import linear, plainly, save
from tests.servers import Bucket, FileServer, Server
from tests.stores.objects import put, read, store_of

import tensorkeep as tk

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = plainly(linear(), {"x": X})["y"]


@pytest.fixture(scope="module")
def filled(s3: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket that has some files, which the environment says how to reach."""
    bucket, folder = s3.bucket(), tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in bucket.environment.items():
            environment.setenv(name, value)
        environment.setenv("HOME", str(folder))
        tk.save(state(), bucket.url("a.safetensors"), metadata={"epoch": 5})
        tk.save({**state(), "mask": np.array([False, False, True])}, bucket.url("b.safetensors"))
        tk.save({"x": X, "y": np.arange(2)}, bucket.url("x.npz"))
        put(store_of(bucket), "m.onnx", save(linear(), folder / "m.onnx").read_bytes())
        tk.data.write(({"v": np.full(3, n), "n": n} for n in range(6)), folder / "d.tar")
        put(store_of(bucket), "d.tar", (folder / "d.tar").read_bytes())
        data = bytearray(read(store_of(bucket), "a.safetensors") or b"")
        with tk.open(bucket.url("a.safetensors")) as opened:
            data[opened["encoder.w"].offset + 7] ^= 0x40
        put(store_of(bucket), "damaged.safetensors", bytes(data))
        with tk.Checkpointer(bucket.url("run")) as ck:
            for step in (100, 200, 300):
                ck.save(step, {"w": np.full(1000, step, np.float32)}, metrics={"loss": 1 / step})
        yield bucket


@pytest.fixture
def bucket(filled: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in filled.environment.items():
        monkeypatch.setenv(name, value)
    return filled


@pytest.fixture
def web(bucket: Bucket, http: FileServer) -> FileServer:
    """The same files from a plain web server."""
    store = store_of(bucket)
    for key in ("a.safetensors", "b.safetensors", "damaged.safetensors", "x.npz", "m.onnx"):
        http.files[key] = read(store, key) or b""
    return http


@pytest.fixture(params=["s3", "http"])
def url(request: pytest.FixtureRequest, bucket: Bucket, web: FileServer) -> Any:
    return bucket.url if request.param == "s3" else web.url


def test_ls(run: Run, url: Any) -> None:
    ran = run("ls", url("a.safetensors"))
    assert (ran.code, ran.err) == (0, "")
    assert "encoder.w" in ran.out
    assert url("a.safetensors") in ran.out
    found = run("ls", url("a.safetensors"), "--json").json
    assert found["path"] == url("a.safetensors")
    assert found["tensors"][0]["file"] == url("a.safetensors")


def test_show(run: Run, url: Any) -> None:
    ran = run("show", url("a.safetensors"), "encoder.b")
    assert (ran.code, ran.err) == (0, "")
    assert "-1" in ran.out


def test_verify(run: Run, url: Any) -> None:
    assert run("verify", url("a.safetensors")).code == 0
    ran = run("verify", url("damaged.safetensors"), "--json")
    assert ran.code == 1
    assert "encoder.w" in ran.out


def test_diff(run: Run, url: Any, tmp_path: Path) -> None:
    ran = run("diff", url("a.safetensors"), url("b.safetensors"))
    assert ran.code == 1
    assert "mask" in ran.out
    tk.save(state(), tmp_path / "a.npz", metadata={"epoch": 5})
    assert run("diff", tmp_path / "a.npz", url("a.safetensors")).code == 0


def test_convert(run: Run, url: Any, bucket: Bucket, tmp_path: Path) -> None:
    ran = run("convert", url("x.npz"), tmp_path / "x.safetensors", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["source"] == url("x.npz")
    target = bucket.url(f"from {url('').partition(':')[0]}.safetensors")
    assert run("convert", url("x.npz"), target).code == 0
    assert np.array_equal(tk.load(target)["x"], X)
    again = run("convert", url("x.npz"), target)
    assert again.code == 2
    assert "is there already" in again.err
    assert run("convert", url("x.npz"), target, "--force").code == 0


def test_convert_in_parts(run: Run, bucket: Bucket) -> None:
    ran = run("convert", bucket.url("x.npz"), bucket.url("parts/{}.npz"), "--split")
    assert (ran.code, ran.err) == (0, "")
    assert sorted(store_of(bucket, "parts").keys()) == ["x.npz", "y.npz"]


def test_convert_does_not_write_to_the_web(run: Run, web: FileServer) -> None:
    ran = run("convert", web.url("x.npz"), web.url("new.npz"))
    assert ran.code == 2
    assert "cannot be written to" in ran.err


def test_check(run: Run, url: Any) -> None:
    ran = run("check", url("m.onnx"))
    assert (ran.code, ran.err) == (0, "")
    assert "ok" in ran.out


def test_run(run: Run, url: Any, bucket: Bucket) -> None:
    for given in (f"x={url('x.npz')}:x", f"{url('x.npz')}:x"):
        ran = run("run", url("m.onnx"), "--input", given, "--json")
        assert (ran.code, ran.err) == (0, "")
        assert ran.json["outputs"]["y"]["values"] == Y.reshape(-1).tolist()
    output = bucket.url("y.npz")
    assert run("run", url("m.onnx"), "-i", f"x={url('x.npz')}:x", "-o", output).code == 0
    assert np.allclose(tk.load(output)["y"], Y)
    missing = run("run", url("m.onnx"), "-i", f"x={url('none.npz')}")
    assert missing.code == 2
    assert "none.npz" in missing.err


def test_edit(run: Run, url: Any, bucket: Bucket) -> None:
    target = bucket.url("edited.onnx")
    ran = run("edit", url("m.onnx"), target, "--rename", "x=input", "--force")
    assert (ran.code, ran.err) == (0, "")
    assert "input" in run("ls", target).out


def test_edit_in_place(run: Run, bucket: Bucket) -> None:
    run("convert", bucket.url("m.onnx"), bucket.url("mine.onnx"))
    assert run("edit", bucket.url("mine.onnx"), "-i", "--rename", "x=input").code == 0
    assert "input" in run("ls", bucket.url("mine.onnx")).out


def test_meta(run: Run, url: Any, bucket: Bucket) -> None:
    target = bucket.url("named.onnx")
    ran = run("meta", "set", url("m.onnx"), "author=Ada", "--output", target)
    assert (ran.code, ran.err) == (0, "")
    assert run("meta", "get", target, "author").out == "Ada\n"
    assert run("meta", "set", target, "author=Grace").code == 0
    assert run("meta", "get", target, "author", "--json").json == "Grace"


def test_checkpoints(run: Run, bucket: Bucket) -> None:
    where = bucket.url("run")
    listed = run("checkpoints", where, "list", "--json")
    assert listed.code == 0
    assert [row["step"] for row in listed.json["checkpoints"]] == [100, 200, 300]
    assert run("checkpoints", where).code == 0
    assert run("checkpoints", where, "verify").code == 0
    ran = run("checkpoints", where, "restore", "200", "--to", bucket.url("restored.npz"))
    assert (ran.code, ran.err) == (0, "")
    assert tk.load(bucket.url("restored.npz"))["w"][0] == 200
    assert run("checkpoints", where, "prune", "--keep", "last=2").code == 0
    assert [row.step for row in tk.checkpoints(where)] == [200, 300]
    assert run("checkpoints", where, "repair", "--dry-run").code == 0
    one = run("checkpoints", bucket.url("run/step-00000300"))
    assert one.code == 2
    assert "is one checkpoint" in one.err
    file = run("checkpoints", bucket.url("a.safetensors"))
    assert file.code == 2
    assert run("ls", bucket.url("run/step-00000300")).code == 0
    newest = run("ls", where)
    assert newest.code == 2
    assert "step-00000300" in newest.err


def test_data(run: Run, bucket: Bucket, tmp_path: Path) -> None:
    ran = run("data", "info", bucket.url("x.npz"), "--json")
    assert (ran.code, ran.err) == (0, "")
    (found,) = ran.json["files"]
    assert found["samples"] == 2
    tar = run("data", "info", bucket.url("d.tar"))
    assert tar.code == 2
    assert "is read from a disk alone. Copy it here first" in tar.err
    written = run("data", "convert", bucket.url("x.npz"), bucket.url("new.tar"))
    assert written.code == 2
    assert "is written to a disk alone" in written.err
    assert run("data", "convert", bucket.url("x.npz"), tmp_path / "x.tar").code == 0


@pytest.mark.parametrize("command", ["ls", "show", "verify", "check", "diff"])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_not_there(run: Run, url: Any, command: str, as_json: bool) -> None:
    more = [url("a.safetensors")] if command == "diff" else []
    ran = run(command, url("none.safetensors"), *more, *(["--json"] if as_json else []))
    assert ran.code == 2
    assert "none.safetensors" in ran.err
    assert "Traceback" not in ran.err
    assert is_safe(ran.err)
    if as_json:
        assert "none.safetensors" in str(ran.json)
