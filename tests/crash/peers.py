"""The same kills for those who save with other libraries, and what each of them can restore then.

Each saves 20 MB again and again in a folder of its own, and announces a step once its own call has
returned, or has said that the save in the background is over. The kills fall evenly on the time
that three saves take, after the first step was announced. Then the newest is restored by the peer's
own call; where that fails, the one before.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tests.crash.zygote import Tell, Zygote

import tensorkeep as tk

Arrays: TypeAlias = dict[str, Any]
_COUNT, _EACH = 8, 650_000  # int32 tensors of so many elements: 20.8 MB
_SAVES = 3.0  # how many saves the kills are spread over
_DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
_COLUMNS = {
    "in a save": "of these in a save",
    "raises": "restoring the newest fails",
    "wrong": "wrong data, no error",
    "lost": "the last saved is lost",
    "nothing": "nothing is left",
}
_MARKS = "<!-- crash:begin -->", "<!-- crash:end -->"


@lru_cache(maxsize=1)
def _base() -> list[Any]:
    draw = np.random.default_rng(0)
    return [draw.integers(-(2**31), 2**31, _EACH, np.int32) for _ in range(_COUNT)]


def state(step: int) -> Arrays:
    """Make the state of a step: every element differs from that of other steps."""
    arrays: Arrays = {f"layer{i}": base + np.int32(step) for i, base in enumerate(_base())}
    return {**arrays, "step": np.array([step])}


def step_of(found: Mapping[str, Any]) -> int:
    """Give the step that a state is exactly that of; -1 where it is of none."""
    step = int(np.asarray(found["step"])[0])
    expected = state(step)
    whole = found.keys() == expected.keys() and all(
        np.array_equal(np.asarray(found[name]), array) for name, array in expected.items()
    )
    return step if whole else -1


class Peer:
    """Saves and restores in one way.

    Args:
        folder: where.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def save(self, step: int, arrays: Arrays) -> None:
        """Save, and return once the step counts as saved."""
        raise NotImplementedError

    def steps(self) -> list[int]:
        """List what seems to be there, the newest first."""
        raise NotImplementedError

    def load(self, step: int) -> Mapping[str, Any]:
        """Restore one of these."""
        raise NotImplementedError


class Ours(Peer):
    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(folder)
        self.checkpointer = tk.Checkpointer(folder, keep="last=2", **options)

    def save(self, step: int, arrays: Arrays) -> None:
        self.checkpointer.save(step, arrays).wait()

    def steps(self) -> list[int]:
        return [row.step for row in reversed(self.checkpointer.checkpoints())]

    def load(self, step: int) -> Mapping[str, Any]:
        restored = self.checkpointer.restore()
        assert restored is not None
        found: Mapping[str, Any] = restored.state
        return found


_Save: TypeAlias = Callable[[Arrays, str], None]
_Load: TypeAlias = Callable[[str], Mapping[str, Any]]


class OneName(Peer):
    """Saves over the same file or folder."""

    def __init__(self, folder: str, save: _Save, load: _Load, suffix: str) -> None:
        super().__init__(folder)
        self.path = os.path.join(folder, f"latest{suffix}")
        self._save, self._load = save, load

    def save(self, step: int, arrays: Arrays) -> None:
        self._save(arrays, self.path)

    def steps(self) -> list[int]:
        return [0] if os.path.exists(self.path) else []

    def load(self, step: int) -> Mapping[str, Any]:
        return self._load(self.path)


class NamePerStep(Peer):
    """Saves each step under a name of its own, and keeps the last two."""

    def __init__(self, folder: str, save: _Save, load: _Load, suffix: str) -> None:
        super().__init__(folder)
        self._save, self._load, self._suffix = save, load, suffix

    def path_of(self, step: int) -> str:
        return os.path.join(self.folder, f"step-{step}{self._suffix}")

    def save(self, step: int, arrays: Arrays) -> None:
        self._save(arrays, self.path_of(step))
        old = self.path_of(step - 2)
        if os.path.isdir(old):
            shutil.rmtree(old)
        elif os.path.exists(old):
            os.unlink(old)

    def steps(self) -> list[int]:
        names = [name.removesuffix(self._suffix) for name in os.listdir(self.folder)]
        found = [int(name.partition("-")[2]) for name in names]
        return sorted(found, reverse=True)

    def load(self, step: int) -> Mapping[str, Any]:
        return self._load(self.path_of(step))


class Orbax(Peer):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.ocp: Any = import_module("orbax.checkpoint")
        options = self.ocp.CheckpointManagerOptions(max_to_keep=2)
        self.manager = self.ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, arrays: Arrays) -> None:
        self.manager.save(step, args=self.ocp.args.StandardSave(arrays))
        self.manager.wait_until_finished()

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps(), reverse=True)

    def load(self, step: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manager.restore(
            step, args=self.ocp.args.StandardRestore(state(0))
        )
        return found


def _tensors(arrays: Arrays) -> Arrays:
    torch: Any = import_module("torch")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _torch_save(arrays: Arrays, path: str) -> None:
    import_module("torch").save(_tensors(arrays), path)


def _torch_replace(arrays: Arrays, path: str) -> None:
    _torch_save(arrays, path + ".tmp")
    os.replace(path + ".tmp", path)


def _torch_load(path: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = import_module("torch").load(path)
    return found


def _safetensors_save(arrays: Arrays, path: str, framework: str) -> None:
    given = _tensors(arrays) if framework == "torch" else arrays
    import_module(f"safetensors.{framework}").save_file(given, path)


def _safetensors_load(path: str, framework: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = import_module(f"safetensors.{framework}").load_file(path)
    return found


def _dcp_save(arrays: Arrays, path: str) -> None:
    import_module("torch.distributed.checkpoint").save(_tensors(arrays), checkpoint_id=path)


def _dcp_load(path: str) -> Mapping[str, Any]:
    found = _tensors({name: np.zeros_like(array) for name, array in state(0).items()})
    import_module("torch.distributed.checkpoint").load(found, checkpoint_id=path)
    return found


def _safetensors(framework: str) -> Callable[[str], Peer]:
    save = partial(_safetensors_save, framework=framework)
    load = partial(_safetensors_load, framework=framework)
    return partial(OneName, save=save, load=load, suffix=".safetensors")


def _tensorkeep_save(arrays: Arrays, path: str) -> None:
    tk.save(arrays, path)


_one_torch = partial(OneName, load=_torch_load, suffix=".pt")
_DCP: dict[str, Any] = {"save": _dcp_save, "load": _dcp_load, "suffix": ""}
# What is written in the table: how it is made, and the module that it needs.
PEERS: dict[str, tuple[Callable[[str], Peer], str]] = {
    '`Checkpointer(keep="last=2")`': (Ours, "tensorkeep"),
    "`Checkpointer`, `background=True`": (partial(Ours, background=True), "tensorkeep"),
    "`tensorkeep.save` over one file": (
        partial(OneName, save=_tensorkeep_save, load=tk.load, suffix=".safetensors"),
        "tensorkeep",
    ),
    "`torch.save` over one file": (partial(_one_torch, save=_torch_save), "torch"),
    "`torch.save`, then `os.replace`": (partial(_one_torch, save=_torch_replace), "torch"),
    "`torch.save`, a file for each step": (
        partial(NamePerStep, save=_torch_save, load=_torch_load, suffix=".pt"),
        "torch",
    ),
    "`safetensors.torch.save_file` over one file": (_safetensors("torch"), "safetensors.torch"),
    "`safetensors.numpy.save_file` over one file": (_safetensors("numpy"), "safetensors.numpy"),
    "torch DCP, `save` into one folder": (
        partial(OneName, **_DCP),
        "torch.distributed.checkpoint",
    ),
    "torch DCP, a folder for each step": (
        partial(NamePerStep, **_DCP),
        "torch.distributed.checkpoint",
    ),
    "orbax `CheckpointManager(max_to_keep=2)`": (Orbax, "orbax.checkpoint"),
}


def prepare(name: str) -> None:
    """Import what a peer needs, and make what all states are made of."""
    import_module(PEERS[name][1])
    _base()


def run(job: dict[str, Any], tell: Tell) -> None:
    """Save or restore, in the child."""
    warnings.simplefilter("ignore")
    logging.disable()
    peer = PEERS[job["peer"]][0](job["folder"])
    if job["last"] is not None:
        tell("found", _restored(peer, job["last"]))
        return
    for step in range(job["count"]):
        arrays = state(step)
        tell("begun", time.monotonic())
        peer.save(step, arrays)
        tell("saved", time.monotonic())


def _restored(peer: Peer, last: int) -> dict[str, bool]:
    """Restore as a user would: the newest; if that fails, the one before."""
    raises = False
    found = None
    for step in peer.steps():
        try:
            found = step_of(peer.load(step))
            break
        except BaseException:  # DCP's are no Exceptions
            raises = True
    return {
        "raises": raises,
        "wrong": found == -1,
        "lost": found is None or found < last,
        "nothing": found is None or found == -1,
    }


def trials(name: str, count: int, seed: int) -> Counter[str]:
    """Kill saves of one peer; give how often what happened."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter(kills=0)
    with Zygote(__name__, name) as children:
        job: dict[str, Any] = {"peer": name, "last": None}
        with tempfile.TemporaryDirectory() as folder:
            children.start(**job, folder=folder, count=6)
            times = [at for _, at in children.told()]
            untouched = children.result(peer=name, folder=folder, last=5)
            assert not any(untouched.values()), f"{name} does not restore without a kill, either"
        saves = sorted(end - start for start, end in zip(times[2::2], times[3::2], strict=True))
        typical = saves[len(saves) // 2]
        counts["ms"] = round(1000 * typical)
        for _ in range(count):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                children.start(**job, folder=folder, count=10**6)
                next(line for line in children.told() if line[0] == "saved")
                told = children.kill(draw.uniform(0, _SAVES * typical))
                counts["kills"] += 1
                counts["in a save"] += bool(told) and told[-1][0] == "begun"
                last = sum(word == "saved" for word, _ in told)  # the first one is step 0
                found = children.result(peer=name, folder=folder, last=last)
                counts.update(what for what, is_so in found.items() if is_so)
    return counts


def report(count: int, seed: int, only: str, write: bool) -> None:
    """Run trials of all peers that are installed, and print a table."""
    heads = ["saved with", "kills", *_COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    for name, (_, module) in PEERS.items():
        if only not in name or not find_spec(module.partition(".")[0]):
            continue
        counts = trials(name, count, seed)
        sys.stderr.write(f"{name}: a save takes {counts['ms']} ms\n")
        cells = [str(counts[column]) for column in ("kills", *_COLUMNS)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if write:
        text = _DOCS.read_text() if _DOCS.exists() else ""
        begin, end = _MARKS
        if begin in text and end in text:
            before, after = text.split(begin)[0], text.split(end)[1]
            _DOCS.write_text(f"{before}{begin}\n{table}{end}{after}")
