from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.data.index import Index, find

STARTS = np.arange(5000, dtype=np.int64) * 7


class Maker:
    """Makes an index, and counts how often."""

    def __init__(self, count: int = 5000) -> None:
        self.made = 0
        self.count = count

    def __call__(self) -> Index:
        self.made += 1
        return Index("toy", {"starts": STARTS[: self.count]}, {"a": [1, "é"]})


@pytest.fixture
def path(tmp_path: Path) -> str:
    name = tmp_path / "data.bin"
    name.write_bytes(b"x" * 100)
    return str(name)


def beside(path: str) -> Path:
    return Path(f"{path}.index.safetensors")


def check(index: Index) -> None:
    assert index.kind == "toy"
    assert index.notes == {"a": [1, "é"]}
    assert np.array_equal(index.arrays["starts"], STARTS)


def test_it_is_made_once(path: str) -> None:
    make = Maker()
    for _ in range(3):
        check(find(path, "toy", "f", make))
    assert make.made == 1
    assert tk.verify(str(beside(path))).ok


def test_a_small_one_is_not_kept(path: str) -> None:
    assert len(find(path, "toy", "f", Maker(4095)).arrays["starts"]) == 4095
    assert not beside(path).exists()


def test_a_folder_has_it_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    make = Maker()
    find(f"{tmp_path}/d/", "toy", "f", make)
    find(f"{tmp_path}/d", "toy", "f", make)
    assert make.made == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "d.index.safetensors"]


@pytest.mark.parametrize("change", ["kind", "fingerprint", "size", "time", "unsound"])
def test_another_state_has_another_index(path: str, change: str) -> None:
    make = Maker()
    find(path, "toy", "f", make)
    if change == "size":
        os.truncate(path, 99)
    if change == "time":
        os.utime(path, ns=(1, 1))
    kind = "other" if change == "kind" else "toy"
    fingerprint = "g" if change == "fingerprint" else "f"
    find(path, kind, fingerprint, make, lambda index: change != "unsound")
    assert make.made == 2


def test_one_that_is_damaged_is_made_anew(path: str) -> None:
    make = Maker()
    find(path, "toy", "f", make)
    whole = beside(path).read_bytes()
    damaged = [whole[:n] for n in (0, 1, 7, 8, 100, len(whole) - 1)]
    flipped = (0, 5, 9, 30, 200, 400, len(whole) - 8, len(whole) // 2)
    damaged += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in flipped]
    for made, data in enumerate(damaged, 2):
        beside(path).write_bytes(data)
        check(find(path, "toy", "f", make))
        assert make.made == made
        check(find(path, "toy", "f", make))
        assert make.made == made


def test_the_file_of_another_is_left_alone(path: str) -> None:
    tk.save({"w": np.ones(3)}, str(beside(path)))
    before = beside(path).read_bytes()
    check(find(path, "toy", "f", Maker()))
    assert beside(path).read_bytes() == before


def test_a_file_without_digests_is_not_taken(path: str) -> None:
    find(path, "toy", "f", Maker())
    with tk.open(str(beside(path))) as state:
        about = dict(state.metadata)
    tk.save({"starts": STARTS[::-1].copy()}, str(beside(path)), metadata=about, checksums=False)
    check(find(path, "toy", "f", Maker()))


def test_where_nothing_can_be_written_it_stays_in_memory(path: str) -> None:
    beside(path).mkdir()  # the owner of the machine may write into any folder
    check(find(path, "toy", "f", Maker()))
    check(find("/proc/self/status", "toy", "f", Maker()))
    assert not any(beside(path).iterdir())


def test_data_that_changes_while_it_is_made_keeps_none(path: str) -> None:
    def make() -> Index:
        os.truncate(path, 3)
        return Maker()()

    check(find(path, "toy", "f", make))
    assert not beside(path).exists()


def _build(path: str) -> None:
    for _ in range(5):
        check(find(path, "toy", "f", Maker()))
        beside(path).unlink(missing_ok=True)


def test_processes_make_it_at_once(path: str) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_build, args=(path,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert {p.name for p in Path(path).parent.iterdir()} <= {"data.bin", beside(path).name}
