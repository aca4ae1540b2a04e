from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tensorkeep.errors import ArgumentError, StoreError
from tensorkeep.models.scratch import scratch_folder


def test_the_folder_is_gone_in_the_end() -> None:
    with scratch_folder() as folder:
        Path(folder, "model.onnx").write_bytes(b"1")
    assert not Path(folder).exists()


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    problem = "none: a temporary file cannot be written: No such"
    with pytest.raises(StoreError, match=problem), scratch_folder():
        pass


def test_errors_of_ours_pass() -> None:
    with pytest.raises(ArgumentError, match="mine"), scratch_folder():
        raise ArgumentError("mine")
