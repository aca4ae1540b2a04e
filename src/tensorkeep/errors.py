"""Every error tensorkeep raises on purpose.

    TensorKeepError
    ├── FormatError (ValueError)
    │   ├── CorruptError              the bytes contradict themselves or their format
    │   ├── UnknownFormatError        no format accepts the bytes
    │   └── UnsupportedError (TypeError)   sound, but not something that can be held or read
    │       └── TranslationError      a model has operators that another dialect cannot say
    ├── StoreError (OSError)          the place that keeps the bytes failed
    ├── MissingError (KeyError, FileNotFoundError)   a file, key or tensor is not there
    ├── LossError (ValueError)        the target cannot hold everything
    ├── MismatchError (ValueError)    what was saved does not fit what it is to be restored into
    ├── MissingDependencyError (ImportError)         an optional library is not installed
    ├── UnsafeError (PermissionError) reading on would leave what the caller pointed at
    ├── ClosedError (ValueError)      the state was closed before it was read
    ├── SampleError (RuntimeError)    a function of the caller's failed for a sample of the data
    └── ArgumentError (ValueError, TypeError, IndexError)   the call itself makes no sense

A message says where, what was found against what was expected, and the cure.
"""

from __future__ import annotations

from typing import Any


class TensorKeepError(Exception):
    """Say what went wrong, where, and what cures it.

    >>> print(CorruptError("header ends early", where="a.npy", cure="Copy the file again."))
    a.npy: header ends early. Copy the file again.
    """

    def __init__(self, problem: str, *, where: str = "", cure: str = "") -> None:
        self.problem = problem
        self.where = where
        self.cure = cure
        text = f"{where}: {problem}" if where else problem
        if cure:
            text = f"{text.rstrip('.')}. {cure}"
        super().__init__(text)

    def __str__(self) -> str:  # KeyError would quote it, OSError would reorder it
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.where, self.cure)


def _rebuild(kind: type[TensorKeepError], problem: str, where: str, cure: str) -> TensorKeepError:
    return kind(problem, where=where, cure=cure)


class FormatError(TensorKeepError, ValueError):
    """The bytes are not what the format allows."""


class CorruptError(FormatError):
    """The bytes are damaged, cut short or contradict themselves."""


class UnknownFormatError(FormatError):
    """No format recognises the bytes."""


class UnsupportedError(FormatError, TypeError):
    """The value or file is sound but cannot be held or read here."""


class TranslationError(UnsupportedError):
    """Operators of a model cannot be said in another dialect; `refusals` lists every one."""

    def __init__(
        self, problem: str, *, where: str = "", cure: str = "", refusals: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(problem, where=where, cure=cure)
        self.refusals = refusals

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_translation, (self.problem, self.where, self.cure, self.refusals)


def _rebuild_translation(
    problem: str, where: str, cure: str, refusals: tuple[Any, ...]
) -> TranslationError:
    return TranslationError(problem, where=where, cure=cure, refusals=refusals)


class StoreError(TensorKeepError, OSError):
    """The disk, database or network that keeps the bytes failed."""


class MissingError(TensorKeepError, KeyError, FileNotFoundError):
    """A file, key or tensor that was asked for is not there."""


class LossError(TensorKeepError, ValueError):
    """The target cannot hold everything the state has."""


class MismatchError(TensorKeepError, ValueError):
    """What was saved does not fit what it is to be restored into."""


class MissingDependencyError(TensorKeepError, ImportError):
    """An optional library that this needs is not installed."""


class UnsafeError(TensorKeepError, PermissionError):
    """A file points outside its own folder or asks for far more than it holds."""


class ClosedError(TensorKeepError, ValueError):
    """The state, store or source was closed before this was read."""


class SampleError(TensorKeepError, RuntimeError):
    """A function of the caller's, or a process that ran it, failed for a sample of the data."""


class ArgumentError(TensorKeepError, ValueError, TypeError, IndexError):
    """An argument is misspelt, of the wrong type or contradicts another."""


__all__ = [
    "ArgumentError",
    "ClosedError",
    "CorruptError",
    "FormatError",
    "LossError",
    "MismatchError",
    "MissingDependencyError",
    "MissingError",
    "SampleError",
    "StoreError",
    "TensorKeepError",
    "TranslationError",
    "UnknownFormatError",
    "UnsafeError",
    "UnsupportedError",
]
