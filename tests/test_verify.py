from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.checksum import digest
from tensorkeep.errors import CorruptError, MissingError, UnknownFormatError
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.verify import _problem


def state() -> dict[str, object]:
    return {
        "encoder": {"w": np.arange(600, dtype=np.float32), "b": np.ones(3, np.float64)},
        "step": 7,
    }


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sound_file_is_checked_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save(state(), path)
    found = tk.verify(path)
    assert found.ok
    assert (found.tensors, found.checked, found.unchecked, found.damaged) == (2, 2, [], [])
    assert (found.format, found.bytes, found.where) == ("safetensors", 2424, str(path))


def test_a_flipped_bit_names_its_tensor_and_only_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save(state(), path)
    with tk.open(path) as opened:
        at = opened["encoder.w"].offset + 1201
    flip(path, at)
    found = tk.verify(path)
    assert not found.ok
    assert [name for name, _ in found.damaged] == ["encoder.w"]
    assert "XXH3-128" in found.damaged[0][1]
    assert found.checked == 2


def test_every_bit_of_the_data_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.arange(5, dtype=np.uint8)}, path)
    sound = path.read_bytes()
    for bit in range(8 * 5):
        data = bytearray(sound)
        data[-1 - bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert [name for name, _ in tk.verify(path).damaged] == ["w"]


def test_without_digests_the_tensors_are_listed_as_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save(state(), path, checksums=False)
    flip(path, path.stat().st_size - 1)
    found = tk.verify(path)
    assert found.ok  # nothing tells
    assert found.checked == 0
    assert sorted(found.unchecked) == ["encoder.b", "encoder.w"]


def test_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save(state(), path)
    flip(path, 60)
    with pytest.raises(CorruptError):
        tk.verify(path)


def test_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        tk.verify(tmp_path / "none.safetensors")
    (tmp_path / "a.txt").write_text("hello there, this is text")
    with pytest.raises(UnknownFormatError):
        tk.verify(tmp_path / "a.txt")


@pytest.mark.parametrize("compress", [False, True])
def test_the_containers_own_checksums_are_checked(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "a.npz"
    values = np.random.default_rng(0).integers(0, 99, 4000)
    (np.savez_compressed if compress else np.savez)(path, w=values, b=np.ones(40))
    found = tk.verify(path)
    assert (found.checked, found.unchecked, found.damaged) == (2, [], [])
    with tk.open(path) as opened:
        assert not opened.digests
    flip(path, 1000)  # in the first member
    assert [name for name, _ in tk.verify(path).damaged] == ["w"]


def test_shards_are_verified_together(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tk.save(state(), path, max_shard_size=2000)
    index = tmp_path / "m.safetensors.index.json"
    assert tk.verify(index).checked == 2
    [shard] = [p for p in tmp_path.glob("m-*") if p.stat().st_size > 2400]
    flip(shard, shard.stat().st_size - 1)
    assert [name for name, _ in tk.verify(index).damaged] == ["encoder.w"]


def test_many_megabytes_are_hashed_on_threads_to_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({f"w{i}": np.full(1 << 18, i, np.float32) for i in range(8)}, path, durable=False)
    flip(path, path.stat().st_size - (1 << 20) * 3 - 1)
    steps: list[tuple[int, int]] = []
    found = tk.verify(path, progress=lambda done, total: steps.append((done, total)))
    assert [name for name, _ in found.damaged] == ["w4"]
    assert steps == [((i + 1) << 20, 8 << 20) for i in range(8)]


def test_a_source_that_fails_is_damage_not_the_end(tmp_path: Path) -> None:
    class Broken(MemorySource):
        def _read(self, start: int, stop: int) -> memoryview:
            raise CorruptError("the stream ends early", where=self.where)

    def check() -> None:
        raise CorruptError("its CRC-32 is wrong", where="x")

    good = Tensor.of(np.ones(3))
    tensors = {"lost": Tensor(good.dtype, (3,), Broken(bytes(24))), "crc": good, "good": good}
    digests = {"lost": "0" * 32, "good": digest(good)}
    checks: dict[str, Callable[[], None]] = {"crc": check}
    broken = State(tensors, digests=digests, checks=checks)
    assert _problem(broken, "lost") == "the stream ends early"
    assert _problem(broken, "crc") == "its CRC-32 is wrong"
    assert _problem(broken, "good") == ""


def test_what_cannot_be_decoded_is_found_without_checksums(tmp_path: Path) -> None:
    tk.save({"w": np.arange(300, dtype=np.int32)}, tmp_path / "a.minidb", plain=True)
    data = bytearray((tmp_path / "a.minidb").read_bytes())
    last = data.rindex(b"\x80\x01\x81\x01")  # 128 and 129: two bytes each
    data[last] = 0
    (tmp_path / "a.minidb").write_bytes(data)
    found = tk.verify(tmp_path / "a.minidb")
    assert (found.checked, found.unchecked, found.ok) == (0, ["w"], False)
    assert found.damaged[0][0] == "w"
