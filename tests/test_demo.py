from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.demo import Summary, network, process, run, story
from tensorkeep.demo.digits import FILE, draw, training_and_held_out, write_training
from tensorkeep.demo.training import State, read, start, train_step
from tensorkeep.errors import ArgumentError, StoreError, TensorKeepError
from tensorkeep.formats import WRITTEN


@dataclass(frozen=True)
class Told:
    summary: Summary
    folder: Path
    lines: list[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    lines: list[str] = []
    return Told(run(folder, say=lines.append), folder, lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "training.safetensors"
    write_training(file)
    return file


def test_digits_are_the_published_ones() -> None:
    arrays = tk.load(FILE)
    assert arrays["images"].shape == (1797, 8, 8)
    assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
    assert arrays["images"].min() == 0
    assert arrays["images"].max() == 16
    counts = np.bincount(arrays["labels"]).tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    notice = FILE.with_name("LICENSE-digits.txt").read_text()
    assert all(part in notice for part in ("Alpaydin", "Kaynak", "10.24432/C50P49", "CC BY 4.0"))


def test_nothing_is_both_trained_on_and_held_out() -> None:
    training, held_out = training_and_held_out()
    assert len(training) + len(held_out) == 1797
    assert 0.19 < len(held_out) / 1797 < 0.21
    assert set(held_out.labels.tolist()) == set(range(10))
    seen = {image.tobytes() for image in training.images}
    assert not any(image.tobytes() in seen for image in held_out.images)


def test_gradients_are_the_slopes_of_the_loss() -> None:
    rng = np.random.default_rng(3)
    weights = {name: array.astype(np.float64) for name, array in network.initial(rng).items()}
    images = rng.random((5, 8, 8))
    labels = np.array([1, 0, 9, 4, 4])
    _, gradients = network.loss_and_gradients(weights, images, labels)
    for name, array in weights.items():
        for index in rng.integers(array.size, size=6):
            flat = array.reshape(-1)
            kept, step = flat[index], 1e-6
            flat[index] = kept + step
            above, _ = network.loss_and_gradients(weights, images, labels)
            flat[index] = kept - step
            below, _ = network.loss_and_gradients(weights, images, labels)
            flat[index] = kept
            slope = (above - below) / (2 * step)
            assert gradients[name].reshape(-1)[index] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_data_is_what_is_not_held_out(data: Path) -> None:
    training, _ = training_and_held_out()
    with tk.data.open(data) as dataset:
        assert len(dataset) == 1437
        batch = dataset.gather(np.arange(1437))
    assert np.array_equal(batch["image"], training.images)
    assert np.array_equal(batch["label"], training.labels)


def test_a_stop_between_epochs_changes_no_bit(data: Path, tmp_path: Path) -> None:
    stopped, alone = tmp_path / "stopped", tmp_path / "alone"
    for folder, epochs in ((stopped, 1), (stopped, 2), (alone, 2)):
        with process.training(folder, data, epochs) as child:
            assert [epoch.epoch for epoch in process.epochs_of(child)][-1] == epochs
    assert _files_of(newest(stopped)) == _files_of(newest(alone))


def newest(run: Path) -> Path:
    return Path(tk.checkpoints(run)[-1].path)


def _files_of(checkpoint: Path) -> dict[str, bytes]:
    """Give all that does not say when it was saved."""
    files = [file for file in checkpoint.iterdir() if file.name != "MANIFEST.json"]
    assert len(files) > 2
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("part", ["model", "optimizer", "data", "average"])
def test_every_part_of_the_state_is_needed_to_resume(part: str, data: Path, tmp_path: Path) -> None:
    with read(data) as batches, tk.Checkpointer(tmp_path) as checkpointer:
        state = start(batches)
        train(state, 2)
        checkpointer.save(2, state)
        train(state, 3)
    for wanted in (part, ""):
        with read(data) as batches, tk.Checkpointer(tmp_path) as checkpointer:
            again = start(batches)
            like = {name: value for name, value in again.items() if name != wanted}
            restored = checkpointer.restore(like={**like, "losses": None}, partial=True)
            assert restored is not None
            again |= restored.state
            assert (wanted == "data") == (batches.sample == 0)
            train(again, 3)
        averages = zip(state["average"].values(), again["average"].values(), strict=True)
        assert all(np.array_equal(a, b) for a, b in averages) == (not wanted)


def train(state: State, steps: int) -> None:
    for batch in itertools.islice(state["data"], steps):
        train_step(state, batch)


def test_it_is_killed_in_the_middle_of_a_save(told: Told) -> None:
    kill = told.summary.kill
    assert kill.unfinished.startswith(".step-0000")
    assert kill.unfinished.endswith(".tmp")
    assert 5 <= kill.epoch < told.summary.epochs
    assert kill.step % 16 == 0
    assert kill.sample == (kill.step - 23 * (kill.epoch - 1)) * 64
    assert any(
        f"epoch {kill.epoch}, sample {kill.sample:,} of 1,437" in line for line in told.lines
    )
    assert any(kill.unfinished in line for line in told.lines)


def test_it_resumes_and_ends_as_if_it_had_not_been_killed(told: Told) -> None:
    state = tk.load(newest(told.folder / "digits"), verify=True)
    assert [entry["epoch"] for entry in state["history"]] == list(range(1, told.summary.epochs + 1))
    assert told.summary.resumed_identical
    alone = newest(told.folder / "uninterrupted")
    assert _files_of(newest(told.folder / "digits")) == _files_of(alone)


def test_it_learns(told: Told) -> None:
    history = tk.load(newest(told.folder / "digits"))["history"]
    assert history[0]["accuracy"] < 0.9
    assert told.summary.accuracy == history[-1]["accuracy"] >= 0.95
    assert told.summary.kill.accuracy < told.summary.accuracy


def test_every_format_holds_the_same_weights(told: Told) -> None:
    _, held_out = training_and_held_out()
    converted = {row.format for row in told.summary.conversions}
    assert converted | told.summary.skipped.keys() == WRITTEN.keys()
    assert {"safetensors", "npz", "json"} <= converted
    trained = tk.load(newest(told.folder / "digits"))["average"]
    for row in told.summary.conversions:
        weights = tk.load(told.folder / row.file)
        assert row.identical
        assert row.bytes == story._size(told.folder / row.file)
        assert all(np.array_equal(weights[name], trained[name]) for name in trained)
        assert weights.keys() == trained.keys()
        found = network.accuracy(weights, held_out.images, held_out.labels)
        assert found == row.accuracy == told.summary.accuracy


def test_a_format_that_cannot_hold_the_weights_is_named(told: Told) -> None:
    assert "npy" in told.summary.skipped
    assert any("npy" in line and told.summary.skipped["npy"][:60] in line for line in told.lines)


def test_it_says_what_is_left(told: Told) -> None:
    left = {path.name: story._size(path) for path in told.folder.iterdir()}
    assert told.summary.files == left
    assert not [path for path in told.folder.rglob("*") if path.name.endswith(".tmp")]
    for name in left:
        assert any(line.endswith(name) for line in told.lines)


def test_the_summary_becomes_json(told: Told) -> None:
    assert told.summary.ok
    document = json.loads(json.dumps(dataclasses.asdict(told.summary)))
    assert document["kill"]["unfinished"] == told.summary.kill.unfinished
    assert document["conversions"][0]["accuracy"] == told.summary.accuracy


def test_the_lines_suit_any_output(told: Told) -> None:
    for line in told.lines:
        assert line.isascii()
        assert line.isprintable()
        assert len(line) <= 100


def test_a_difference_is_not_ok(told: Told) -> None:
    first, *rest = told.summary.conversions
    other = dataclasses.replace(first, accuracy=0.5)
    assert not dataclasses.replace(told.summary, conversions=(other, *rest)).ok
    other = dataclasses.replace(first, identical=False)
    assert not dataclasses.replace(told.summary, conversions=(other, *rest)).ok
    assert not dataclasses.replace(told.summary, resumed_identical=False).ok


def test_drawing_puts_images_side_by_side() -> None:
    assert draw(np.array([[[0, 1]], [[1, 0.5]]])) == ["  @@  @@=="]


def test_the_process_imports_nothing_from_the_current_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorkeep", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a stranger')")
    monkeypatch.chdir(tmp_path)
    with process.training(Path("run"), data, 1) as child:
        epochs = list(process.epochs_of(child))
    assert [epoch.epoch for epoch in epochs] == [1]
    assert tk.load(newest(tmp_path / "run"))["optimizer"]["step"] == 23


def test_a_failing_process_says_why(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_bytes(b"not a folder")
    with (
        process.training(file, data, 1) as child,
        pytest.raises(TensorKeepError, match=r"status 1: .*run: cannot be written"),
    ):
        list(process.epochs_of(child))


def test_a_finished_process_is_not_called_killed(data: Path, tmp_path: Path) -> None:
    with process.training(tmp_path / "run", data, 1) as child:
        list(process.epochs_of(child))
        assert process.kill_in_save(child, tmp_path / "run") is None


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "digits.safetensors"
    file.write_text("mine")
    yield tmp_path
    assert file.read_text() == "mine"


def test_a_folder_that_holds_something_is_refused(occupied: Path) -> None:
    with pytest.raises(ArgumentError, match="not empty"):
        run(occupied, say=lambda line: None)


def test_a_file_is_not_a_folder(occupied: Path) -> None:
    with pytest.raises(StoreError, match=r"digits\.safetensors: cannot be used"):
        run(occupied / "digits.safetensors", say=lambda line: None)


def test_an_interruption_leaves_the_last_good_state_alone(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if "left behind" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, say=interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "training-digits.safetensors"}
    assert not list((tmp_path / "digits").glob(".step-*"))
    assert tk.load(newest(tmp_path / "digits"), verify=True)["optimizer"]["step"] >= 112


INTERRUPTED = """
import os, signal
from tensorkeep.demo import run

def interrupt(line):
    if "loss" in line:
        os.kill(os.getpid(), signal.SIGINT)

try:
    run(say=interrupt)
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
        print("a process is left")
    except ChildProcessError:
        print("clean")
"""


def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("clean\n", "")
    assert list(tmp_path.iterdir()) == []
