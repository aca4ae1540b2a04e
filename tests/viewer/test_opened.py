from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, ClosedError, MissingError, UnknownFormatError
from tensorkeep.viewer.opened import Opened
from tensorkeep.viewer.targets import path_of


def test_a_file_a_run_and_what_cannot_be_opened(file: Path, run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    opened = Opened([file, str(run), bad, tmp_path / "none.npz", tmp_path])
    state, folder, broken, missing, other = opened.things()
    assert (state.id, state.name, state.path) == ("0", "model.safetensors", str(file))
    assert (state.kind, state.format, state.tensors, state.nbytes) == (
        "state",
        "safetensors",
        2,
        72,
    )
    assert (folder.kind, folder.name, folder.steps, folder.tensors) == ("run", "run", 3, 0)
    for thing in (broken, missing, other):
        assert thing.kind == ""
        assert thing.problem
    assert "there is no such file" in missing.problem
    assert missing.name == "none.npz"


def test_a_checkpoint_of_a_run_is_open_by_its_step(run: Path) -> None:
    opened = Opened([run])
    thing = opened.thing("0@200")
    assert (thing.id, thing.name, thing.kind, thing.format) == (
        "0@200",
        "run @ 200",
        "state",
        "checkpoint",
    )
    with opened.using("0@200") as held:
        assert held.names == ("w",)
        assert held.tensor(0).numpy().tolist() == [[200] * 3] * 2
    gone = opened.thing("0@201")
    assert gone.kind == ""
    assert "no checkpoint of step 201" in gone.problem
    with pytest.raises(ArgumentError, match="is a run"), opened.using("0"):
        pass


def test_one_checkpoint_is_a_state(run: Path) -> None:
    (thing,) = Opened([run / "step-00000200"]).things()
    assert (thing.kind, thing.format, thing.tensors) == ("state", "checkpoint", 1)


def test_an_empty_run_is_told_by_its_checkpointer_alone(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path / "new", rng=False) as checkpointer:
        (thing,) = Opened([checkpointer]).things()
        assert (thing.kind, thing.name, thing.steps) == ("run", "new", 0)
        (folder,) = Opened([tmp_path / "new"]).things()
        assert folder.kind == ""


def test_what_a_program_holds(file: Path) -> None:
    class Model:
        def state_dict(self) -> dict[str, object]:
            return {"w": np.ones(2), "layers": [np.zeros((2, 2))]}

    with tk.open(file) as state:
        opened = Opened([state, {"a": {"b": np.zeros(3)}, "lr": 0.1}, Model(), [np.ones(4)]])
        things = opened.things()
        assert [thing.tensors for thing in things] == [2, 1, 2, 1]
        assert [thing.name for thing in things] == ["model.safetensors", "dict", "Model", "list"]
        opened.close()
        assert state["encoder.w"].numpy()[0, 1] == 1  # whoever opened it closes it


def test_ids_are_never_paths(file: Path, run: Path) -> None:
    opened = Opened([file, run])
    for id in (
        str(file),
        "2",
        "00",
        "-1",
        "+0",
        " 0",
        "0 ",
        "0\n",
        "",
        "0@",
        "1@00200",
        "1@-1",
        "1@9" + "9" * 30,
        "9" * 5000,
        "\u0660",  # a zero in another script
        "../run@200",
        "1@step-00000200",
        "1/step-00000200",
        "0@200@200",
    ):
        with pytest.raises(MissingError, match="nothing that is open"):
            opened.thing(id)
        with pytest.raises(MissingError, match="nothing that is open"), opened.using(id):
            pass
        with pytest.raises(MissingError, match="nothing that is open"):
            opened.run(id)
    for id in ("0", "1@200"):
        with pytest.raises(ArgumentError, match="is no run"):
            opened.run(id)
    with pytest.raises(ArgumentError, match="is no run"), opened.using("0@200"):
        pass


def test_a_tensor_that_is_not_there(file: Path) -> None:
    with Opened([file]).using("0") as held:
        for place in (2, -1, 10**30):
            with pytest.raises(MissingError, match="has 2 tensors"):
                held.tensor(place)


def test_few_states_stay_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.npz" for n in range(6)]
    for n, path in enumerate(paths):
        tk.save({"w": np.full(3, n)}, path)
    opened = Opened(paths, most=2)
    assert [thing.tensors for thing in opened.things()] == [1] * 6
    assert list(opened._slots) == ["4", "5"]
    with opened.using("0") as first:
        for n in range(1, 6):
            with opened.using(str(n)) as held:
                assert held.tensor(0).numpy()[0] == n
        assert "0" in opened._slots  # in use, whatever its age
        assert first.tensor(0).numpy().tolist() == [0, 0, 0]
    with opened.using("5") as held, opened.using("5") as again:
        assert held is again


def test_opened_once_by_many_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened([file])
    opens: list[str] = []
    really = Opened._open

    def slowly(self: Opened, id: str) -> tk.State:
        opens.append(id)
        threading.Event().wait(0.05)
        return really(self, id)

    monkeypatch.setattr(Opened, "_open", slowly)

    def read(_: int) -> float:
        with opened.using("0") as held:
            return float(held.state["encoder.w"][2, 3])

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read, range(64))) == {11.0}
    assert opens == ["0"]


def test_states_come_and_go_under_threads(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.safetensors" for n in range(5)]
    for n, path in enumerate(paths):
        tk.save({"w": np.full(1000, n)}, path)
    opened = Opened(paths, most=1)

    def read(turn: int) -> bool:
        with opened.using(str(turn % 5)) as held:
            return bool((held.tensor(0).numpy() == turn % 5).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))
    assert len(opened._slots) == 1


def test_closing_waits_for_what_is_in_use(file: Path) -> None:
    closed: list[bool] = []
    state = tk.State({}, close=lambda: closed.append(True))
    opened = Opened([file])
    with opened.using("0") as held:
        held.state = state
        opened.close()
        assert not closed
        with pytest.raises(ClosedError), opened.using("0"):
            pass
    assert closed == [True]


def test_what_could_not_be_opened_is_tried_again(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "late.safetensors"
    opened = Opened([path])
    assert opened.thing("0").problem
    path.write_bytes(file.read_bytes())
    assert opened.thing("0").tensors == 2


def test_a_file_that_changed_is_opened_anew_with_the_page(file: Path) -> None:
    opened = Opened([file])
    assert opened.thing("0").tensors == 2
    before = opened.stamp("0")
    with opened.using("0") as old:
        tk.save({"w": np.ones(5)}, file)
        with opened.using("0") as held:  # until the page asks what there is
            assert held is old
        assert opened.thing("0").tensors == 1
        with opened.using("0") as held:
            assert held.names == ("w",)
        assert old.tensor(0).numpy()[0, 1] == 1
    assert opened.stamp("0") != before
    assert list(opened._slots) == ["0"]
    file.unlink()
    assert "no such file" in opened.thing("0").problem


def test_a_run_grows(run: Path) -> None:
    opened = Opened([run])
    assert opened.thing("0").steps == 3
    with tk.Checkpointer(run, rng=False) as checkpointer:
        checkpointer.save(400, {"w": np.zeros(3)})
    assert opened.thing("0").steps == 4
    assert opened.thing("0@400").tensors == 1


def test_a_mistake_of_ours_is_no_traceback(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Opened, id: str) -> tk.State:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Opened, "_open", fail)
    (thing,) = Opened([file]).things()
    assert thing.problem.startswith("internal error: RuntimeError.")
    assert "secret" not in thing.problem
    assert "secret detail" in caplog.text


def test_secrets_of_an_address_are_not_shown() -> None:
    (thing,) = Opened(["http://me:word@127.0.0.1:9/a.npz?signature=abc"]).things()
    assert thing.path == "http://127.0.0.1:9/a.npz"
    for secret in ("word", "signature", "abc"):
        assert secret not in str(thing)
    assert path_of("https://me:word@[/x?key=1") == "https://…"


def test_nothing_to_look_at(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to look at"):
        Opened([]).check()
    (tmp_path / "bad").write_bytes(b"?" * 100)
    with pytest.raises(MissingError):
        Opened([tmp_path / "none", tmp_path / "bad"]).check()
    with pytest.raises(UnknownFormatError):
        Opened([tmp_path / "bad", tmp_path / "none"]).check()
    Opened([tmp_path / "none", file]).check()
    with pytest.raises(ArgumentError, match="takes several"):
        Opened("model.safetensors")
