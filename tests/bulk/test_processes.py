from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.bulk.tasks import act, tries

from tensorkeep.bulk import run
from tensorkeep.errors import ArgumentError

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # one that ended is there until its parent has looked
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_that_die_take_no_other_item_with_them(tmp_path: Path) -> None:
    names = (
        *("a-fine", "once-killed", "b-fine", "z-segfault", "c-fine"),
        *("d-corrupt", "once-network", "e-fine"),
    )
    for name in names:
        (tmp_path / name).touch()
    summary = run(act, [tmp_path / name for name in names], jobs=2, retries=1, backoff=0.01)
    assert [outcome.item.name for outcome in summary.outcomes] == list(names)
    assert [outcome.status for outcome in summary.outcomes] == [
        *("done", "done", "done", "failed", "done", "damaged", "done", "done")
    ]
    assert [tries(tmp_path / name) for name in names] == [1, 2, 1, 2, 1, 1, 2, 1]
    lost = summary.outcomes[3]
    assert lost.problem == "a worker process was ended by SIGSEGV while it was at this"
    assert lost.error["kind"] == "Crashed"


def test_what_no_other_process_can_import() -> None:
    with pytest.raises(ArgumentError, match="cannot be sent to a worker process"):
        run(lambda item: {}, ["a", "b"], jobs=2)


SCRIPT = """
import sys, pathlib
from tensorkeep.bulk import run
from tests.bulk.tasks import act
if {guard}:
    print(run(act, sorted(pathlib.Path(sys.argv[1]).glob("*-*")), jobs=2).counts, flush=True)
"""


def start(folder: Path, guard: str = '__name__ == "__main__"') -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_a_run_leaves_nothing_running(tmp_path: Path, signal_number: int) -> None:
    for name in ("a-slow", "b-slow", "c-slow"):
        (tmp_path / name).touch()
    with start(tmp_path) as process:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        began = time.monotonic()
        if signal_number == signal.SIGINT:
            os.killpg(process.pid, signal_number)  # as a terminal does
        else:
            process.kill()
        _, err = process.communicate(timeout=10)
    until(lambda: not any(map(alive, workers)))
    assert time.monotonic() - began < 5
    assert err.count("KeyboardInterrupt") == (1 if signal_number == signal.SIGINT else 0)
    assert tries(tmp_path / "c-slow") == 0


def test_a_script_without_its_guard_is_told(tmp_path: Path) -> None:
    (tmp_path / "a-fine").touch()
    (tmp_path / "b-fine").touch()
    with start(tmp_path, guard="True") as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out == ""
    assert "worker processes cannot be started: one ended with exit code 1" in err
    assert 'if __name__ == "__main__":' in err.splitlines()[-1]
