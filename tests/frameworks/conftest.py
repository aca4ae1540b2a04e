"""The libraries to check against, imported only by the tests that ask for them."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch (torch) is not installed")


@pytest.fixture(scope="session")
def jax() -> Any:
    return pytest.importorskip("jax", reason="JAX (jax) is not installed")


@pytest.fixture(scope="session")
def tensorflow() -> Any:
    return _loud("tensorflow", "TensorFlow")


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras, over a backend that is installed and light to import."""
    backends = [name for name in ("jax", "torch", "tensorflow") if find_spec(name)]
    os.environ.setdefault("KERAS_BACKEND", backends[0] if backends else "numpy")
    return _loud("keras", "Keras")


def _loud(module: str, name: str) -> Any:
    """Import a library that warns while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason=f"{name} ({module}) is not installed")
