"""The viewer from Python and in a notebook, without a browser."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.viewer.runs_made import make_run

import tensorkeep as tk
from tensorkeep import errors


def asked(url: str) -> object:
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.load(response)


def test_a_view_serves_what_a_program_holds() -> None:
    with tk.view({"layer": {"w": np.ones((2, 3))}}) as shown:
        assert asked(f"{shown.url}api/things/0/tensors")["names"] == ["layer.w"]  # type: ignore[index]
        assert re.fullmatch(r"View\('http://127.*'\)", repr(shown))
        assert f'src="{shown.url}"' in shown._repr_html_()
    with pytest.raises(errors.ClosedError):
        shown._repr_html_()


def test_states_paths_and_checkpointers_are_shown(tmp_path: Path) -> None:
    tk.save({"w": np.arange(4)}, tmp_path / "a.npz")
    make_run(tmp_path / "run", steps=2)
    with (
        tk.open(tmp_path / "a.npz") as state,
        tk.Checkpointer(tmp_path / "run") as run,
        tk.view(tmp_path / "a.npz", state, run) as shown,
    ):
        things = asked(f"{shown.url}api/things")["things"]  # type: ignore[index]
        assert [(each["kind"], each["problem"]) for each in things] == [
            ("state", ""), ("state", ""), ("run", ""),
        ]  # fmt: skip


def test_only_a_view_may_be_framed_and_only_by_pages_of_this_machine(tmp_path: Path) -> None:
    with tk.view({"w": np.ones(2)}) as shown:
        with urllib.request.urlopen(shown.url, timeout=20) as response:
            policy = response.headers["content-security-policy"]
        assert "frame-ancestors http://localhost:*" in policy


def test_an_inline_view_needs_no_server(tmp_path: Path) -> None:
    shown = tk.view({"<b>": np.ones((2, 3))}, inline=True, height=300)
    frame = shown._repr_html_()
    assert shown.url == ""
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert 'height="300"' in frame
    match = re.search(r'srcdoc="([^"]*)"', frame)
    assert match is not None
    shown.export(tmp_path / "report.html")
    assert html.unescape(match[1]) == (tmp_path / "report.html").read_text("utf-8")


def test_the_port_is_the_one_that_is_asked_for() -> None:
    with tk.view({"w": np.ones(2)}) as first:
        port = int(first.url.split(":")[2].split("/")[0])
        with pytest.raises(errors.ArgumentError, match="cannot be had"):
            tk.view({"w": np.ones(2)}, port=port)


def test_a_program_with_an_open_view_ends() -> None:
    program = "import numpy, tensorkeep; print(tensorkeep.view({'w': numpy.ones(2)}).url)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")
    assert done.stderr == ""


def test_starting_tensorkeep_imports_no_viewer() -> None:
    program = (
        "import sys, tensorkeep; assert not [m for m in sys.modules if m.startswith(('starlette',"
        "'uvicorn', 'tensorkeep.viewer'))]; assert tensorkeep.view"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
