from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.running import Run

COMMAND = [sys.executable, "-m", "tensorkeep", "view"]


@contextmanager
def viewing(*arguments: object, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give a real process that serves, and the line that it says."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **variables},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def asked(url: str, path: str) -> object:
    with urllib.request.urlopen(f"{url}api/{path}", timeout=20) as reply:
        return json.load(reply)


def test_it_serves_until_it_is_interrupted(file: Path) -> None:
    with viewing(file, "--no-browser") as (process, line):
        url, told = line.split("  ")
        assert url.startswith("http://127.0.0.1:")
        assert told == "(Ctrl-C ends it)\n"
        things = asked(url, "things")
        assert isinstance(things, dict)
        assert [thing["name"] for thing in things["things"]] == ["a.safetensors"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
        with pytest.raises(OSError, match="refused"):
            asked(url, "things")


def test_json_and_a_port(file: Path) -> None:
    with viewing(file, file.parent / "none.npz", "--json", "--no-browser") as (_, line):
        url = json.loads(line)["url"]
        things = asked(url, "things")
        assert isinstance(things, dict)
        assert [bool(thing["problem"]) for thing in things["things"]] == [False, True]
        port = url.split(":")[2].split("/")[0]
        ended = subprocess.run([*COMMAND, file, "--port", port], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"port {port} cannot be had: Address already in use" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have browsers of their own")
def test_the_browser_gets_an_address_that_is_good_once(file: Path, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new\nmv {opened}.new {opened}\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    with viewing(file, DISPLAY=":0", BROWSER=f"{browser} %s") as (_, line):
        url = line.split("  ")[0]
        for _ in range(500):
            if opened.exists():
                break
            time.sleep(0.02)
        given = opened.read_text().strip()
        assert given.startswith(url.rsplit("/", 2)[0])
        assert given != url
        with urllib.request.urlopen(given, timeout=20) as reply:
            assert reply.url == url
            assert b"<html" in reply.read()
        with pytest.raises(OSError, match="404"):
            urllib.request.urlopen(given, timeout=20)
    opened.unlink()
    with viewing(file, "--no-browser", DISPLAY=":0", BROWSER=f"{browser} %s") as (process, _):
        process.send_signal(signal.SIGINT)
        process.wait(20)
    with viewing(file, BROWSER=f"{browser} %s") as (process, _):  # no display
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert not opened.exists()


def test_nothing_that_can_be_opened(run: Run, tmp_path: Path, damaged: Path) -> None:
    ran = run("view", tmp_path / "none.npz", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "there is no such file" in ran.err
    assert "Traceback" not in ran.err
    assert run("view").code == 2
    assert run("view", damaged, "--port", "-1").code == 2


def test_a_report_is_one_file(run: Run, file: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    ran = run("view", file, "--export", report, "--exact")
    assert (ran.code, ran.out, ran.err) == (0, f"wrote {report}\n", "")
    assert b'id="recorded"' in report.read_bytes()
    again = run("view", file, "--export", report)
    assert (again.code, again.out) == (2, "")
    assert "--force" in again.err
    forced = run("view", file, "--export", report, "--force", "--json")
    assert forced.json == {"file": str(report), "left_out": []}
    assert run("view", tmp_path / "none.npz", "--export", tmp_path / "b.html").code == 2
    assert not (tmp_path / "b.html").exists()


def test_without_the_extra(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ran = run("view", file)
    assert (ran.code, ran.out) == (2, "")
    assert 'pip install "tensorkeep[view]"' in ran.err
