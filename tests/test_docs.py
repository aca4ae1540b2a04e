"""Every code block of the README and the docs runs, and prints what it says it prints."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers.buckets import Bucket

import tensorkeep

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Plug-ins for libraries that the default suite does without.
NEEDS_MORE = {"tensorkeep.frameworks.torch", "tensorkeep.frameworks.jax"}


@dataclass(frozen=True)
class Block:
    language: str
    marks: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(m[1], m[2].strip(), m[3]) for m in BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if "s3://models" in page.read_text():
        server = request.getfixturevalue("s3")
        server.make(server.port, "models")
        for name, value in Bucket("s3", "models", server.port).environment.items():
            monkeypatch.setenv(name, value)
    namespace: dict[str, object] = {}
    for block in blocks(page):
        if block.marks in ("setup", "test", "notest") or "frameworks" in block.marks:
            continue  # whole installations, other libraries, and parts of what tests run whole
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), namespace)
        elif block.language == "pycon":
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            parsed = doctest.DocTestParser().get_doctest(
                block.text, namespace, page.name, page.name, 0
            )
            runner.run(parsed, clear_globs=False)
            namespace.update(parsed.globs)
            assert runner.failures == 0
        elif block.language == "console":
            run_console(block.text, tmp_path)


def run_console(text: str, folder: Path) -> None:
    """Run each `$ command`; the lines below it (up to `...`) have to be among what it prints."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "100"}
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, text=True, capture_output=True
        )
        assert done.returncode in (0, 1), done.stderr
        printed = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
        for line in expected.splitlines():
            if line.strip() and "..." not in line and "…" not in line:
                assert line.rstrip() in printed, f"{command}: {line!r} is not in\n" + "\n".join(
                    printed
                )


def modules() -> list[str]:
    found = pkgutil.walk_packages(tensorkeep.__path__, "tensorkeep.")
    return [m.name for m in found if m.name not in NEEDS_MORE and not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
