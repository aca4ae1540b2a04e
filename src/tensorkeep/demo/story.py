"""The story that the demo tells, one function per chapter."""

from __future__ import annotations

import filecmp
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tensorkeep import api
from tensorkeep.checkpoint import Checkpoint, checkpoints
from tensorkeep.convert import convert
from tensorkeep.demo import network
from tensorkeep.demo.digits import Digits, draw, training_and_held_out, write_training
from tensorkeep.demo.process import Epoch, epochs_of, kill_in_save, training, unfinished
from tensorkeep.demo.summary import Conversion, Kill, Summary
from tensorkeep.demo.training import EVERY
from tensorkeep.diff import diff
from tensorkeep.errors import (
    ArgumentError,
    LossError,
    MissingDependencyError,
    StoreError,
    UnsupportedError,
)
from tensorkeep.formats import WRITTEN
from tensorkeep.stores.file import sweep
from tensorkeep.verify import verify

Say = Callable[[str], None]

_EPOCHS = 16
_KILL_AFTER = 5  # epochs
_TRIES = 4
_RUN = "digits"
_DATA = "training-digits.safetensors"
_ALONE = "uninterrupted"
_WEIGHTS = "weights.safetensors"
_WIDTH = 100  # of the lines it tells
_TIMED = "MANIFEST.json"  # it says when it was saved
_CANNOT_HOLD = (ArgumentError, LossError, MissingDependencyError, UnsupportedError)


def run(folder: Path | None = None, *, say: Say = print) -> Summary:
    """Train, kill, resume, verify, convert and compare, telling each step as it happens.

    Args:
        folder: where the files are left, new or empty; None for a temporary folder that is
            removed at the end.
        say: called with each line of the story: plain ASCII text without its line end.

    Returns:
        What was found; its `ok` is False where something differs that has to be equal.

    Raises:
        ArgumentError: the folder is not empty.
        StoreError: the folder cannot be made, or the disk is full.
        TensorKeepError: the training process failed; the message has its last words.
    """
    if folder is not None:
        _make(folder)
        return _run(folder, say)
    with tempfile.TemporaryDirectory(prefix="tensorkeep-demo-") as temporary:
        summary = _run(Path(temporary), say)
    say("The folder was temporary and has been removed.")
    return summary


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise StoreError(f"cannot be used: {error.strerror}", where=str(folder)) from error
    if taken:
        raise ArgumentError(
            "the folder is not empty", where=str(folder), cure="Give a new or an empty one."
        )


def _run(folder: Path, say: Say) -> Summary:
    began = time.monotonic()
    trained, alone, data = folder / _RUN, folder / _ALONE, folder / _DATA
    trained_on, held_out = training_and_held_out()
    write_training(data)
    try:
        kill = _train_and_kill(trained, data, len(trained_on), say)
        _resume(trained, data, kill, len(trained_on), say)
        same = _compare_with_uninterrupted(trained, alone, data, say)
    finally:
        for each in (folder, trained, alone):
            sweep(each)  # what is left where this process is stopped itself
    weights = _trained(trained)
    accuracy = network.accuracy(weights, held_out.images, held_out.labels)
    conversions, skipped = _convert(weights, folder, accuracy, held_out, say)
    _recognise(weights, held_out, say)
    summary = Summary(
        folder=str(folder),
        trained_on=len(trained_on),
        held_out=len(held_out),
        weights=sum(array.size for array in weights.values()),
        epochs=_EPOCHS,
        kill=kill,
        resumed_identical=same,
        accuracy=accuracy,
        conversions=tuple(conversions),
        skipped=skipped,
        files={path.name: _size(path) for path in sorted(folder.iterdir())},
        seconds=round(time.monotonic() - began, 2),
    )
    _close(summary, say)
    return summary


def _size(path: Path) -> int:
    inner = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in inner)


def _train_and_kill(run: Path, data: Path, count: int, say: Say) -> Kill:
    say(f"1. Train a small convolutional network on {count:,} handwritten digits, shuffled anew")
    say(f"   for each epoch. Every {EVERY} steps its process saves a checkpoint of all it needs to")
    say("   go on: weights, their average, Adam's moments, the history, the place in the data.")
    left, tries = _train_until_killed(run, data, say), 1
    while left is None and tries < _TRIES:
        say("   The save was over before the signal arrived. Again, from where it stopped:")
        left, tries = _train_until_killed(run, data, say), tries + 1
    say("")
    say("2. Kill it (SIGKILL) in the middle of a save")
    if left is None:
        say(f"   no save was caught under way in {tries} tries")
    else:
        say(f"   left behind   {left.name}, unfinished")
    newest = _newest(run)
    good = api.load(newest.path, verify=True)
    kill = Kill(
        tries=tries,
        unfinished=left.name if left else "",
        epoch=good["data"]["epoch"] + 1,
        sample=good["data"]["sample"],
        step=good["optimizer"]["step"],
        accuracy=float(newest.metrics["accuracy"]),
    )
    name = Path(newest.path).name
    say(f"   still good    {name}: {_place(kill, count)}, every tensor verified")
    return kill


def _place(kill: Kill, count: int) -> str:
    return f"epoch {kill.epoch}, sample {kill.sample:,} of {count:,}"


def _newest(run: Path) -> Checkpoint:
    return [row for row in checkpoints(run) if row.ok][-1]


def _train_until_killed(run: Path, data: Path, say: Say) -> Path | None:
    with training(run, data, _EPOCHS) as process:
        for done in epochs_of(process):
            _say_epoch(done, say)
            if done.epoch >= _KILL_AFTER:
                return kill_in_save(process, run)
    return None


def _resume(run: Path, data: Path, kill: Kill, count: int, say: Say) -> None:
    say("")
    say(f"3. Resume in a new process, from step {kill.step}: {_place(kill, count)}")
    say("   It goes on with the very next batch, in the order that the epoch had.")
    with training(run, data, _EPOCHS) as process:
        for done in epochs_of(process):
            _say_epoch(done, say)
    if kill.unfinished and not unfinished(run):
        say("   It removed the unfinished checkpoint. Kept are the newest two and the best:")
    for row in checkpoints(run):
        say(f"   {row.step:8}   {row.size / 1000:,.0f} kB   accuracy {row.metrics['accuracy']:.4f}")


def _say_epoch(done: Epoch, say: Say) -> None:
    bar = "#" * round(30 * done.accuracy)
    say(
        f"   epoch {done.epoch:2}   loss {done.loss:.4f}   accuracy {done.accuracy:.4f} "
        f" |{bar:<30}|"
    )


def _compare_with_uninterrupted(run: Path, alone: Path, data: Path, say: Say) -> bool:
    with training(alone, data, _EPOCHS) as process:
        for _ in epochs_of(process):
            pass
    ours, theirs = Path(_newest(run).path), Path(_newest(alone).path)
    names = sorted(path.name for path in ours.iterdir() if path.name != _TIMED)
    _, *differing = filecmp.cmpfiles(ours, theirs, names, shallow=False)
    same = ours.name == theirs.name and not any(differing)
    ends = "in the same files, byte for byte" if same else "in OTHER files: resuming lost something"
    say(f"   The same training, never killed, ends {ends}.")
    return same


def _trained(run: Path) -> network.Weights:
    """Load what is used to recognise digits: the running average of the weights."""
    average = "average."
    arrays = api.load(_newest(run).path, names=f"{average}*", verify=True)
    return {name.removeprefix(average): array for name, array in arrays.items()}


def _convert(
    weights: network.Weights, folder: Path, accuracy: float, held_out: Digits, say: Say
) -> tuple[list[Conversion], dict[str, str]]:
    say("")
    say("4. Convert the weights to every format, verify, load and compare them")
    say(_row("format", "kB", "verified", "difference", f"accuracy on {len(held_out)} new digits"))
    say(_row("(in memory)", "", "", "", f"{accuracy:.4f}"))
    source = folder / _WEIGHTS
    api.save(weights, source)
    done: list[Conversion] = []
    skipped: dict[str, str] = {}
    for format in WRITTEN.values():
        target = source.with_suffix(format.suffixes[0])
        try:
            if target != source:
                convert(source, target)
        except _CANNOT_HOLD as error:
            skipped[format.name] = error.problem
            say(_cut(f"   {format.name:<14}left out: {error.problem}"))
            continue
        found = _compare(source, target, format.name, held_out)
        done.append(found)
        size, difference = f"{found.bytes / 1000:,.0f}", f"{found.difference:g}"
        checked = f"{found.verified} of {len(weights)}"
        say(_row(found.format, size, checked, difference, f"{found.accuracy:.4f}"))
    return done, skipped


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def _row(format: str, size: str, verified: str, difference: str, accuracy: str) -> str:
    return f"   {format:<14}{size:>8}   {verified:<11}{difference:<13}{accuracy}"


def _compare(source: Path, target: Path, format: str, held_out: Digits) -> Conversion:
    verified = verify(target)
    found = diff(source, target, names="*")
    missing = found.only_in_a or found.only_in_b
    weights = api.load(target)
    return Conversion(
        format=format,
        file=target.name,
        bytes=_size(target),
        verified=verified.checked - len(verified.damaged),
        identical=not missing and all(tensor.identical for tensor in found.tensors),
        difference=float(max((tensor.max_absolute for tensor in found.tensors), default=0)),
        accuracy=network.accuracy(weights, held_out.images, held_out.labels),
    )


def _recognise(weights: network.Weights, held_out: Digits, say: Say) -> None:
    """Draw some digits with what they are taken for, the first mistake among them."""
    answers = network.scores(weights, held_out.images).argmax(axis=1)
    wrong = np.flatnonzero(answers != held_out.labels)[:1]
    shown = [*np.unique(answers, return_index=True)[1][2:5], *wrong]
    say("")
    say(f"5. Digits it had never seen{', and its first mistake' if len(wrong) else ''}")
    for line in draw(held_out.images[shown]):
        say(f"   {line}".rstrip())
    texts = []
    for answer, label in zip(answers[shown], held_out.labels[shown], strict=True):
        texts.append(f"a {answer}" if answer == label else f"a {answer}; no, a {label}")
    say("   " + "  ".join(f"{text:<16}" for text in texts).rstrip())


def _close(summary: Summary, say: Say) -> None:
    say("")
    verdict = "Everything agrees" if summary.ok else "SOMETHING DIFFERS"
    say(f"{verdict}, after {summary.seconds:.1f} s. Files in {summary.folder}:")
    for name, size in summary.files.items():
        say(f"   {size / 1000:>8,.0f} kB  {name}")
