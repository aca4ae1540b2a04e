from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import ESCAPE, Ran, Run, state

import tensorkeep as tk
from tensorkeep.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = end.value.code or 0
        assert isinstance(code, int)
        return Ran(code, out, err)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    tk.save(state(), path, metadata={"epoch": 5, "by": "us"})
    return path


@pytest.fixture
def damaged(file: Path) -> Path:
    """Give a copy with one bit of encoder.w flipped."""
    data = bytearray(file.read_bytes())
    with tk.open(file) as opened:
        data[opened["encoder.w"].offset + 7] ^= 0x40
    path = file.with_name("damaged.safetensors")
    path.write_bytes(data)
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Give a file whose names, metadata and text try to steer the terminal."""
    path = tmp_path / "hostile.safetensors"
    nesting = {
        f"w{ESCAPE}": np.ones(3),
        "[bold red]x[/]": np.ones(2),
        "texts": np.array([f"t{ESCAPE}", "\u202e"]),
        f"value{ESCAPE}": f"v{ESCAPE}\nsecond line",
    }
    tk.save(nesting, path, metadata={f"key{ESCAPE}": f"m{ESCAPE}", "list": [ESCAPE]})
    return path
