from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from tests.bulk.tasks import act, tries, without_main

import tensorkeep.bulk.processes  # noqa: F401 - which cannot be read once no file can be opened
from tensorkeep.bulk import run
from tensorkeep.errors import ArgumentError, StoreError

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


def test_workers_that_die_take_no_other_item_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_main(monkeypatch)
    names = (
        *("a-fine", "once-killed", "b-fine", "c-fine"),
        *("d-corrupt", "once-network", "e-fine", "z-segfault"),
    )
    for name in names:
        (tmp_path / name).touch()
    summary = run(act, [tmp_path / name for name in names], jobs=2, retries=1, backoff=0.01)
    assert [outcome.item.name for outcome in summary.outcomes] == list(names)
    assert [outcome.status for outcome in summary.outcomes] == [
        *("done", "done", "done", "done", "damaged", "done", "done", "failed")
    ]
    assert [tries(tmp_path / name) for name in names] == [1, 2, 1, 1, 1, 2, 1, 2]
    lost = summary.outcomes[-1]
    assert lost.problem == "a worker process was ended by SIGSEGV while it was at this"
    assert lost.error["kind"] == "Crashed"


def test_what_no_other_process_can_import() -> None:
    with pytest.raises(ArgumentError, match="cannot be sent to a worker process"):
        run(lambda item: {}, ["a", "b"], jobs=2)


def test_more_jobs_than_there_may_be_open_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource_tracker.ensure_running()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be started: Too many open files. Have fewer"):
            run(act, [tmp_path / "a", tmp_path / "b"], jobs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


SCRIPT = """
import sys, pathlib
import tensorkeep.bulk.processes  # noqa: F401 - which cannot be read once no file can be opened
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
