"""The examples of the operators' documentation, which run and give what they show.

They follow those of Caffe2's own documentation of DBExists, Load and Save, with databases in a
folder of the caller.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tensorkeep.caffe2.files import load
from tensorkeep.caffe2.operator import create_operator
from tensorkeep.caffe2.workspace import Workspace


def save_op_example(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Save three blobs under other names; gives what the database then holds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = save_op_example(folder)
    >>> list(saved), saved["x_scores"].tolist()
    (['x_scores', 'y_scores', 'z_scores'], [1.0, 2.0, 3.0])
    """
    ws = Workspace(os.fspath(folder))
    ws.feed("X", np.array([1, 2, 3], np.float32))
    ws.feed("Y", np.array([4, 5, 6], np.float32))
    ws.feed("Z", np.array([7, 8, 9], np.float32))
    op = create_operator(
        "Save",
        ["X", "Y", "Z"],
        db="scores.minidb",
        db_type="minidb",
        blob_name_overrides=["x_scores", "y_scores", "z_scores"],
    )
    ws.run(op)
    return load(os.path.join(folder, "scores.minidb"))


def load_op_example(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Save two blobs, forget them, and load them again; gives their values.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loaded = load_op_example(folder)
    >>> loaded["X"].tolist(), loaded["Y"]
    ([0, 1, 2, 3], b'text')
    """
    ws = Workspace(os.fspath(folder))
    ws.feed("X", np.arange(4))
    ws.feed("Y", "text")
    ws.run(create_operator("Save", ["X", "Y"], db="blobs.minidb", db_type="minidb"))
    ws.reset()
    ws.run(create_operator("Load", [], ["X", "Y"], db="blobs.minidb", db_type="minidb"))
    return {name: ws.fetch(name) for name in ws.blobs()}


def db_exists_op_example(folder: str | os.PathLike[str]) -> bool:
    """Ask whether a database exists; gives the answer.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     db_exists_op_example(folder), save_op_example(folder) and db_exists_op_example(folder)
    (False, True)
    """
    ws = Workspace(os.fspath(folder))
    op = create_operator("DBExists", [], ["exists"], db_name="scores.minidb", db_type="minidb")
    ws.run(op)
    return bool(ws.fetch("exists"))
