from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import Run, is_safe

import tensorkeep as tk

PYTHON = sys.executable
COMMANDS = ("ls", "show", "convert", "diff", "verify", "demo")


def tensorkeep(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [PYTHON, "-m", "tensorkeep", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def on_terminal(*arguments: object, environment: dict[str, str] | None = None) -> str:
    """Give what a terminal is sent by a command that runs in it."""
    here, there = pty.openpty()
    words = [PYTHON, "-m", "tensorkeep", *map(str, arguments)]
    process = subprocess.Popen(
        words, stdin=there, stdout=there, stderr=there, env=os.environ | (environment or {})
    )
    os.close(there)
    return b"".join(_sent(here, process)).decode()


def _sent(here: int, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    try:
        while data := os.read(here, 1 << 16):
            yield data
    except OSError:  # the other end was closed
        pass
    finally:
        os.close(here)
        process.wait(60)


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"tensorkeep {tk.__version__}\n"


def test_help_lists_every_command(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in ran.out
    assert "--install-completion" in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_tells_its_json(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert "With --json" in ran.out


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("ls",), ("ls", "x", "--wrong")])
def test_misuse(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).code == 2


@pytest.mark.parametrize("command", ["ls", "show"])
def test_a_missing_file_is_one_line_of_error(run: Run, file: Path, command: str) -> None:
    missing = file.with_name("b.safetensors")
    ran = run(command, missing)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {missing}: there is no such file. Did you mean {file}?\n"
    ran = run(command, missing, "--json")
    assert ran.code == 2
    assert ran.json == {
        "error": {
            "kind": "MissingError",
            "message": f"{missing}: there is no such file. Did you mean {file}?",
            "where": str(missing),
            "cure": f"Did you mean {file}?",
        }
    }


def test_a_hostile_file_name_is_escaped_in_errors(run: Run, tmp_path: Path) -> None:
    ran = run("ls", tmp_path / "\x1b[2J\n.npz")
    assert is_safe(ran.err)
    assert ran.err.count("\n") == 1
    assert r"\x1b[2J\n.npz" in ran.err


def test_completion_is_offered() -> None:
    ran = subprocess.run(
        [PYTHON, "-m", "tensorkeep"],
        env=os.environ
        | {
            "_TENSORKEEP_COMPLETE": "complete_bash",
            "COMP_WORDS": "tensorkeep ve",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["verify"]


def test_as_a_module_and_as_a_script(file: Path) -> None:
    ran = tensorkeep("ls", file, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["count"] == 7
    script = Path(PYTHON).with_name("tensorkeep")
    if script.exists():
        again = subprocess.run([script, "ls", file, "--json"], capture_output=True, check=True)
        assert again.stdout.decode() == ran.stdout


def test_what_only_a_few_need_is_not_imported_at_the_start(file: Path) -> None:
    code = (
        "import sys\n"
        "from tensorkeep.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('rich', 'torch', 'jax', 'numpy.testing') if m in sys.modules])\n"
    )
    for arguments in (["--help"], ["ls", str(file)]):
        ran = subprocess.run([PYTHON, "-c", code, *arguments], capture_output=True, check=True)
        assert ran.stdout.splitlines()[-1] == b"[]"


def test_output_that_nobody_reads_on_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    tk.save({f"layer.{i}": np.zeros(1) for i in range(9000)}, path, checksums=False, durable=False)
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [PYTHON, "-m", "tensorkeep", "ls", path], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_has_no_room_is_an_error(file: Path) -> None:
    with open("/dev/full", "wb") as full:
        words = [PYTHON, "-m", "tensorkeep", "ls", str(file)]
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert ran.returncode == 2
    assert ran.stderr == b"error: No space left on device\n"


def test_streams_that_the_shell_has_closed(file: Path) -> None:
    for closed in (">&-", ">&- 2>&-"):
        command = f'"{sys.executable}" -m tensorkeep ls "{file}" {closed}'
        ran = subprocess.run(["sh", "-c", command], capture_output=True)
        assert (ran.returncode, ran.stderr) == (0, b"")


def test_an_output_of_few_letters_gets_escapes(tmp_path: Path) -> None:
    tk.save({"重み": np.ones(1)}, tmp_path / "a.npz")
    ran = subprocess.run(
        [PYTHON, "-m", "tensorkeep", "ls", tmp_path / "a.npz"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0
    assert rb"\u91cd\u307f" in ran.stdout


def test_ctrl_c_ends_with_one_line() -> None:
    process = subprocess.Popen(
        [PYTHON, "-m", "tensorkeep", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs, and what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.readline()  # the story has begun
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b"interrupted\n"
    assert process.returncode == 130


def test_a_terminal_gets_bold_heads_and_a_pipe_does_not(file: Path) -> None:
    assert "\x1b[1mNAME" in on_terminal("ls", file)
    assert "\x1b" not in on_terminal("ls", file, environment={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal("ls", file, environment={"TERM": "dumb"})
    assert "\x1b" not in tensorkeep("ls", file).stdout


def test_hostile_names_do_not_steer_a_terminal(hostile: Path) -> None:
    for arguments in (("ls", hostile), ("verify", hostile), ("diff", hostile, hostile, "--all")):
        sent = on_terminal(*arguments, environment={"NO_COLOR": "1"})
        assert is_safe(sent.replace("\r\n", "\n"))
