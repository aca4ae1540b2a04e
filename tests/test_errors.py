from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from tensorkeep import errors
from tensorkeep.errors import TensorKeepError

KINDS: dict[str, type[TensorKeepError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, TensorKeepError)
}
BUILTINS: dict[str, tuple[type[Exception], ...]] = {
    "CorruptError": (ValueError,),
    "UnknownFormatError": (ValueError,),
    "UnsupportedError": (ValueError, TypeError),
    "StoreError": (OSError,),
    "MissingError": (KeyError, FileNotFoundError, OSError),
    "LossError": (ValueError,),
    "MissingDependencyError": (ImportError,),
    "UnsafeError": (PermissionError,),
    "ClosedError": (ValueError,),
    "SampleError": (RuntimeError,),
    "ArgumentError": (ValueError, TypeError),
}


def test_all_are_exported_and_drawn() -> None:
    assert sorted(errors.__all__) == sorted(KINDS)
    for name, kind in KINDS.items():
        assert kind.__doc__
        assert name in str(errors.__doc__)


@pytest.mark.parametrize("name", BUILTINS)
def test_each_is_what_a_caller_would_guess(name: str) -> None:
    for builtin in BUILTINS[name]:
        with pytest.raises(builtin, match="problem"):
            raise KINDS[name]("a problem")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_messages(kind: type[TensorKeepError]) -> None:
    error = kind("is damaged", where="a.npy", cure="Copy it again.")
    assert str(error) == "a.npy: is damaged. Copy it again."
    assert str(kind("is damaged.", cure="Copy it.")) == "is damaged. Copy it."
    assert str(kind("is damaged")) == "is damaged"
    assert str(kind("", where="")) == ""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.problem, again.where, again.cure) == ("is damaged", "a.npy", "Copy it again.")


def test_an_errno_is_kept() -> None:
    error = errors.StoreError("is full")
    error.errno = 28
    assert error.errno == 28
    assert str(error) == "is full"
