"""Models in several GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import (
    CorruptError,
    MissingError,
    StoreError,
    UnsupportedError,
)
from tensorkeep.testing import assert_equal_states

STATE: dict[str, Any] = {f"w{i}": np.full((4, 32), i, np.float32) for i in range(5)}
STATE["step"] = 3
TENSORS = {name: value for name, value in STATE.items() if name != "step"}


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    tk.save(STATE, tmp_path / "model.gguf", max_shard_size=1200, metadata={"general.name": "x"})
    return sorted(tmp_path.iterdir())


def test_the_parts(parts: list[Path]) -> None:
    assert [part.name for part in parts] == [f"model-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for target in (*parts, parts[0].with_name("model.gguf")):
        assert_equal_states(tk.load(target, verify=True), STATE)
        with tk.open(target) as state:
            assert state.metadata == {"general.name": "x"}
    found: dict[str, Any] = {}
    for number, part in enumerate(parts):
        reader = gguf.GGUFReader(part)
        split = [reader.fields[f"split.{key}"].contents() for key in ("no", "count")]
        assert split == [number, 3]
        assert reader.fields["split.tensors.count"].contents() == 5
        found.update({t.name: np.array(t.data) for t in reader.tensors})
    assert_equal_states(found, TENSORS)


def test_parts_that_the_reference_wrote(tmp_path: Path) -> None:
    for first_is_small in (False, True):
        path = tmp_path / f"m{first_is_small}.gguf"
        writer = gguf.GGUFWriter(
            path, "test", split_max_tensors=2, small_first_shard=first_is_small
        )
        writer.add_uint8("n", 3)
        for name, array in TENSORS.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert_equal_states(tk.load(path), TENSORS)
        again = tmp_path / f"whole{first_is_small}.gguf"
        tk.convert(path, again)
        with tk.open(again) as state:
            assert state.metadata == {
                "general.architecture": "test",
                "n": 3,
                "gguf.types": {"n": "uint8"},
            }


def test_a_missing_part(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(MissingError, match=r"00002-of-00003.*part 2 of 3 is missing"):
        tk.open(parts[0])


def test_parts_that_were_mixed_up(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CorruptError, match="should be part 2 of 3"):
        tk.open(parts[0])
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(CorruptError, match="should be part 2 of 3"):
        tk.open(parts[2])


def test_a_part_under_another_name(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("first.gguf"))
    with pytest.raises(UnsupportedError, match="is one of 3 parts, but is not named like one"):
        tk.open(renamed)


def test_a_part_of_another_save(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    more = {**STATE, "v": np.ones((4, 32), np.float32)}
    tk.save(more, other / "model.gguf", max_shard_size=1200)
    parts[1].write_bytes((other / parts[1].name).read_bytes())
    with pytest.raises(CorruptError, match=r"5 tensors in all, but says .* with 6"):
        tk.open(parts[0])


def test_parts_are_never_replaced_one_by_one(parts: list[Path]) -> None:
    before = [part.read_bytes() for part in parts]
    with pytest.raises(StoreError, match="part of an earlier save"):
        tk.save(STATE, parts[0].with_name("model.gguf"), max_shard_size=1200)
    assert [part.read_bytes() for part in parts] == before
    assert sorted(parts[0].parent.iterdir()) == parts


def test_parts_replace_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tk.save({"old": np.ones(1)}, path)
    tk.save(STATE, path, max_shard_size="1.2KB")
    assert not path.exists()
    assert_equal_states(tk.load(path), STATE)


def test_one_part_is_a_whole_file(tmp_path: Path) -> None:
    tk.save(STATE, tmp_path / "model.gguf", max_shard_size="1GB")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
