"""obstore, whose threads do not live on in a forked child: that loads a copy of its own.

The library starts its threads once in a process, and after a fork waits for ever for them. A copy
of its shared object, under another name, has not started any; to load it takes 0.01 s.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from tensorkeep.errors import StoreError
from tensorkeep.optional import require

_NATIVE = "obstore._obstore"
LOCK = threading.RLock()  # held while something is made anew for a process
_loaded: Any = None
_process = 0


def obstore() -> Any:
    """Give the library, as this process can use it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    global _loaded, _process
    if _process != os.getpid():
        with LOCK:
            if _process != os.getpid():
                _loaded = _copy() if _process else _first()
                _process = os.getpid()
    return _loaded


def _first() -> Any:
    need, cure = "objects of a store need obstore", "Install tensorkeep[cloud]."
    require("obstore.store", need, cure)
    return require("obstore", need, cure)


def _unlock() -> None:
    global LOCK
    LOCK = threading.RLock()  # a thread that was not forked along may hold the old one


os.register_at_fork(after_in_child=_unlock)


class _Copied:
    """Finds the native module under a file of another name."""

    def __init__(self, file: str) -> None:
        self.file = file

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _NATIVE:
            return None
        loader = importlib.machinery.ExtensionFileLoader(name, self.file)
        return importlib.util.spec_from_file_location(name, self.file, loader=loader)


def _copy() -> Any:
    native = importlib.util.find_spec(_NATIVE) if _NATIVE not in sys.modules else None
    file = native.origin if native else sys.modules[_NATIVE].__file__
    try:
        with tempfile.TemporaryDirectory() as folder, _aside():
            fresh = shutil.copyfile(str(file), os.path.join(folder, os.path.basename(str(file))))
            finder = _Copied(fresh)
            sys.meta_path.insert(0, finder)
            try:
                importlib.import_module("obstore.store")
                return importlib.import_module("obstore")
            finally:
                sys.meta_path.remove(finder)
    except (OSError, ImportError) as error:
        raise StoreError(
            f"objects cannot be reached from a forked process: {error}",
            cure='Start processes by "spawn" or "forkserver".',
        ) from error


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Put what is imported of the library aside meanwhile: others go on with it."""
    names = [name for name in sys.modules if name.partition(".")[0] == "obstore"]
    kept = {name: sys.modules.pop(name) for name in names}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
            del sys.modules[name]
        sys.modules.update(kept)
