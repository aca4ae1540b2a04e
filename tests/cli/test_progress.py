from __future__ import annotations

import io
import sys

import pytest

from tensorkeep.cli import progress as module
from tensorkeep.cli.progress import progress, progress_of_items


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, patience: float) -> Terminal:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(module, "_PATIENCE", patience)
    monkeypatch.setattr(module, "_REDRAW", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stderr


def test_no_terminal_no_bar() -> None:
    with progress("verifying") as report:
        assert report is None
    with progress_of_items("verifying") as report_of_items:
        assert report_of_items is None


def test_quick_work_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch, patience=1000)
    with progress("verifying") as report:
        assert report is not None
        report(1, 2)
        report(2, 2)
    assert stderr.getvalue() == ""


def test_long_work_draws_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch, patience=0)
    with progress("verifying") as report:
        assert report is not None
        for done in range(0, 6_000_000, 1_000_000):
            report(done, 5_000_000)
    drawn = stderr.getvalue()
    assert "verifying" in drawn
    assert "5.0/5.0 MB" in drawn
    assert "/s" in drawn
    assert "0:00:00" in drawn


def test_items_and_bytes_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch, patience=0)
    with progress_of_items("verifying") as report:
        assert report is not None
        for done in range(1, 6):
            report(done, 5, done * 1_000_000, 5_000_000)
    drawn = stderr.getvalue()
    assert "verifying 5 of 5" in drawn
    assert "5.0/5.0 MB" in drawn


def test_items_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = terminal(monkeypatch, patience=0)
    with progress_of_items("pruning") as report:
        assert report is not None
        for done in range(1, 4):
            report(done, 3, 0, 0)
    assert "pruning 2 of 3" in stderr.getvalue()


def test_an_error_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with progress("verifying") as report:
            assert report is not None
            report(1, 5)
            raise ValueError("broken")

    stderr = terminal(monkeypatch, patience=0)
    with pytest.raises(ValueError, match="broken"):
        fail()
    assert stderr.getvalue().count("\x1b[?25l") == 1  # the cursor is hidden
    assert stderr.getvalue().count("\x1b[?25h") == 1  # and shown again
    assert stderr.getvalue().endswith("\x1b[2K")
