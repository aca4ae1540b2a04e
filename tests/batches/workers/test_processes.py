"""Worker processes make batches in order, hand them over as they are, and end with their owner."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tests.batches.workers import worker_jobs
from tests.batches.workers.worker_jobs import Task, make

from tensorkeep.data.dataset import Batch
from tensorkeep.data.workers.processes import Processes
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    SampleError,
    TensorKeepError,
    UnsupportedError,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes[Task]]:
    with Processes(make, 2) as pool:
        yield pool


def tasks(job: str, *numbers: int) -> list[Task]:
    return [(job, number) for number in numbers]


def test_order_is_kept_and_all_workers_work(pool: Processes[Task]) -> None:
    batches = list(pool.ahead(tasks("slow_when_even", *range(12)), prefetch=4))
    assert [int(batch["number"][0]) for batch in batches] == list(range(12))
    assert len({int(batch["by"][0]) for batch in batches}) == 2
    assert os.getpid() not in {int(batch["by"][0]) for batch in batches}


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_workers_stay_from_stream_to_stream(pool: Processes[Task], prefetch: int) -> None:
    for _ in range(3):
        found = [
            int(b["number"][0]) for b in pool.ahead(tasks("counted", 3, 1, 2), prefetch=prefetch)
        ]
        assert found == [3, 1, 2]


def test_two_streams_share_them(pool: Processes[Task]) -> None:
    one = pool.ahead(tasks("counted", *range(40)), prefetch=3)
    two = pool.ahead(tasks("counted", *range(40, 80)), prefetch=2)
    both = [(int(a["number"][0]), int(b["number"][0])) for a, b in zip(one, two, strict=True)]
    assert both == [(i, i + 40) for i in range(40)]


def test_what_comes_then_is_done_ahead_too(pool: Processes[Task]) -> None:
    def then(batch: Batch) -> tuple[int, str]:
        return int(batch["number"][0]), threading.current_thread().name

    found = list(pool.ahead(tasks("counted", 1, 2), prefetch=1, then=then))
    assert found == [(1, "tensorkeep data"), (2, "tensorkeep data")]


def test_every_kind_of_array_comes_as_it_was(pool: Processes[Task]) -> None:
    found, expected = pool(("varied", 7)), worker_jobs.varied(7)
    assert list(found) == list(expected)
    for name, value in expected.items():
        array = np.asarray(value)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tolist() == array.tolist(), name
        if array.dtype != object:
            assert found[name].flags.writeable, name
            assert found[name].ctypes.data % 64 == 0, name
    assert found["bfloat16"].dtype == ml_dtypes.bfloat16
    assert pool(("nothing", 0)) == {}


def test_batches_that_are_held_are_not_written_over(pool: Processes[Task]) -> None:
    held = list(pool.ahead(tasks("large", *range(60)), prefetch=4))
    for number, batch in enumerate(held):
        assert (batch["x"] == number % 256).all()
        assert batch["y"].tolist() == list(range(number % 7))


def test_a_view_of_a_view_holds_its_batch(pool: Processes[Task]) -> None:
    views = []
    for number, batch in enumerate(pool.ahead(tasks("large", *range(30)), prefetch=2)):
        if number % 6 == 1:
            flat = batch["x"].reshape(-1, 100)[10:][::2].T.view(np.int8)
            views.append((number, flat.data if number % 12 == 1 else flat))
    for number, view in views:
        assert (np.asarray(view) == number).all()


def test_memory_is_used_again(pool: Processes[Task]) -> None:
    where = set()
    for batch in pool.ahead(tasks("large", *range(60)), prefetch=2):
        where.add(batch["x"].ctypes.data)
    assert len(where) <= 10, "slots are made anew"


def test_slots_grow(pool: Processes[Task]) -> None:
    sizes = [1, 10, 100_000, 3, 400_000, 0, 1_000_000, 2]
    for size, batch in zip(sizes, pool.ahead(tasks("growing", *sizes), prefetch=3), strict=True):
        assert batch["x"].shape == (size,)
        assert (batch["x"] == size).all()


def test_what_is_written_to_a_batch_stays_in_it(pool: Processes[Task]) -> None:
    for _ in range(3):
        for batch in pool.ahead(tasks("large", 5, 6), prefetch=1):
            batch["x"] += 1
            assert batch["x"][0] in (6, 7)


def test_errors_of_ours_come_as_they_are(pool: Processes[Task]) -> None:
    stream = pool.ahead([("counted", 1), ("corrupt", 17), ("counted", 2)], prefetch=3)
    assert next(stream)["number"][0] == 1
    with pytest.raises(CorruptError, match=r"train.tar: sample 17 is damaged. Copy") as raised:
        next(stream)
    assert "worker_jobs.py" in raised.value.__notes__[0]
    assert "in corrupt" in raised.value.__notes__[0]
    assert next(stream, None) is None


@pytest.mark.parametrize(
    ("job", "kind", "text"),
    [
        ("wrong", KeyError, "3"),
        ("strange", TensorKeepError, "raised .*worker_jobs.Strange: 3 and 3"),
        ("leaves", TensorKeepError, "raised SystemExit: 3"),
        ("listed", UnsupportedError, "a batch is a list"),
        ("odd_field", UnsupportedError, "the field 'x' of a batch is a list"),
        ("odd_element", UnsupportedError, "the field 'x' of a batch has a set in it"),
        ("odd_type", UnsupportedError, "the field 'x' of a batch has elements of StringDType"),
    ],
)
def test_errors_of_a_worker_are_told(
    pool: Processes[Task], job: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as raised:
        pool((job, 3))
    assert type(raised.value) is kind
    assert "In the worker process" in raised.value.__notes__[0]
    assert pool(("counted", 4))["number"][0] == 4


def test_what_cannot_be_pickled_is_told(pool: Processes[Task]) -> None:
    with pytest.raises(ArgumentError, match=r"what makes the batches .*lambda.* top of a module"):
        Processes(lambda task: task, 1)
    with pytest.raises(ArgumentError, match="a task cannot be sent to a worker process"):
        pool(("counted", lambda: 0))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="workers=0 was given"):
        Processes(make, 0)


def test_a_worker_that_dies_is_told_and_replaced_and_one_that_is_dropped_ends() -> None:
    own = Processes(make, 1, describe=lambda task: f"samples {task[1]} to 9")
    stream = own.ahead([("counted", 1), ("killed", 2), ("counted", 3)], prefetch=3)
    assert next(stream)["number"][0] == 1
    with pytest.raises(SampleError, match=r"ended by SIGKILL while it made samples 2 to 9\. .*mem"):
        next(stream)
    stream = own.ahead(tasks("counted", 4, 5, 6), prefetch=1)
    batch = next(stream)
    del own, stream
    gc.collect()
    assert gone(int(batch["by"][0]))
    assert batch["number"][0] == 4


def test_closing_ends_them_and_batches_stay_good(pool: Processes[Task]) -> None:
    own = Processes(make, 1)
    batch = own(("large", 3))
    by = int(own(("counted", 1))["by"][0])
    stream = own.ahead(tasks("sleepy", 0, 60, 0), prefetch=2)
    next(stream)
    own.close()
    own.close()
    with pytest.raises(ProcessLookupError):
        os.kill(by, 0)
    with pytest.raises(ClosedError, match="closed before this batch was made"):
        next(stream)
    with pytest.raises(ClosedError, match="closed"):
        own(("counted", 1))
    assert (batch["x"] == 3).all()


def test_ctrl_c_raises_once_and_leaves_nothing() -> None:
    script = """
        from tests.batches.workers.worker_jobs import make
        from tensorkeep.data.workers.processes import Processes
        if __name__ == "__main__":
            pool = Processes(make, 1)
            print(int(pool(("counted", 0))["by"][0]))
            stream = pool.ahead([("counted", 1), ("sleepy", 60), ("sleepy", 60)], prefetch=2)
            next(stream)
            print("waiting", flush=True)
            next(stream)
    """
    with start(script) as process:
        assert process.stdout is not None
        by = int(process.stdout.readline())
        assert process.stdout.readline() == "waiting\n"
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=50)
    assert time.monotonic() - begin < 30
    assert errors.count("Traceback") == 1
    assert errors.endswith("KeyboardInterrupt\n")
    assert gone(by)


def test_a_fork_is_refused_and_workers_end_with_a_parent_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
        import os
        from tests.batches.workers.worker_jobs import make
        from tensorkeep.data.workers.processes import Processes
        if __name__ == "__main__":
            pool = Processes(make, 1)
            pool(("counted", 1))
            if not (pid := os.fork()):
                try:
                    pool(("counted", 2))
                except ValueError as error:
                    print(error, flush=True)
                pool.close()
                os._exit(0)
            os.waitpid(pid, 0)
            print(int(pool(("counted", 3))["by"][0]), flush=True)
            pool(("sleepy", 60))
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = shared_memory()
    with start(script) as process:
        assert process.stdout is not None
        told, by = process.stdout.readline(), int(process.stdout.readline())
        assert told.startswith("worker processes belong to the process that started them, not to")
        assert not gone(by, 0.1)
        process.kill()
        assert process.communicate(timeout=30) == ("", "")
    assert gone(by)
    assert list(tmp_path.iterdir()) == []
    assert shared_memory() <= before


def test_a_script_without_guard_ends_with_the_reason(tmp_path: Path) -> None:
    script = """
        from tests.batches.workers.worker_jobs import make
        from tensorkeep.data.workers.processes import Processes
        Processes(make, 1)(("counted", 0))
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 1
    assert "An attempt has been made to start a new process" in done.stderr
    assert "ended with exit code 1 while it made ('counted', 0)" in done.stderr.replace("\n", " ")
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    }


def start(script: str) -> subprocess.Popen[str]:
    """Start a program as a shell does, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(),
    )


def gone(pid: int, seconds: float = 30) -> bool:
    """Wait until a process is no more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("*tensorkeep*")) | set(Path("/dev/shm").glob("psm_*"))
