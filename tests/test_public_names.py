"""The public names are complete, sorted and documented."""

from __future__ import annotations

import inspect

import tensorkeep
from tensorkeep import errors


def test_all_is_sorted_and_importable() -> None:
    assert tensorkeep.__all__ == sorted(tensorkeep.__all__)
    for name in tensorkeep.__all__:
        assert inspect.getdoc(getattr(tensorkeep, name)), name


def test_every_error_is_drawn_in_the_tree() -> None:
    tree = inspect.getdoc(errors) or ""
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert name in tree
        assert issubclass(kind, errors.TensorKeepError)
        if kind not in (errors.TensorKeepError, errors.FormatError):
            builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
            assert len(builtin) > 3, f"{name} is not also a builtin that a caller would guess"


def test_verbs_say_what_they_raise() -> None:
    for verb in (tensorkeep.open, tensorkeep.load, tensorkeep.save, tensorkeep.convert):
        assert "Raises:" in (inspect.getdoc(verb) or "")
