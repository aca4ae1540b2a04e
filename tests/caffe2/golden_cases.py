"""The operator runs that were recorded of Caffe2, and how they are run again here."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tensorkeep.caffe2 import Blob, DBReader, Workspace, create_operator
from tensorkeep.errors import CorruptError, TensorKeepError
from tensorkeep.source import FileSource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.minidb import read_records

DATA = Path(__file__).parent.parent / "data" / "caffe2"
Case = dict[str, Any]
Row = dict[str, Any]

ATOMIC_BOOL = "std::unique_ptr<std::atomic<bool> >"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    error: TensorKeepError | None
    before: dict[str, Row]
    after: dict[str, Row]
    file: list[Row] | None  # the records of scratch.minidb

    @property
    def ok(self) -> bool:
        return self.error is None


def read_cases() -> list[Case]:
    cases: list[Case] = json.loads((DATA / "cases" / "cases.json").read_text())
    return cases


def run_cases(folder: Path, *, strict: bool) -> dict[str, Outcome]:
    """Run all cases in their order, in a folder that is the process's own by now."""
    shutil.copytree(DATA / "cases", folder / "cases")
    (folder / "cases").chmod(0o755)
    return {case["id"]: _run(case, folder, strict) for case in read_cases()}


def _run(case: Case, folder: Path, strict: bool) -> Outcome:
    workspace = Workspace(strict=strict, durable=False)
    if case["fed"]:
        with np.load(DATA / "cases" / "fixtures.npz") as fixtures:
            for name in fixtures:
                workspace.feed(name, fixtures[name])
        workspace.feed("s", b"str-dev")
    for step in case["pre"]:
        if step["op"] == "CreateAtomicBool":
            workspace.set(step["outputs"][0], Blob(ATOMIC_BOOL, None))
        else:
            workspace.run(_definition(step))
    before = rows_of(workspace)
    error = None
    try:
        workspace.run(_definition(case))
    except TensorKeepError as raised:
        error = raised
    return Outcome(error, before, rows_of(workspace), _records(folder / "cases/scratch.minidb"))


def _definition(step: Case) -> Any:
    arguments = dict(step["args"])
    if "options" in arguments:
        arguments["options"] = bytes.fromhex(arguments["options"]["hex"])
    return create_operator(step["op"], step["inputs"], step["outputs"], **arguments)


def rows_of(workspace: Workspace) -> dict[str, Row]:
    """Describe the blobs of a workspace as the recorded runs do."""
    return {name: _row(workspace, name) for name in workspace.blobs()}


def _row(workspace: Workspace, name: str) -> Row:
    blob = workspace.blob(name)
    if isinstance(blob.value, Tensor):
        tensor = blob.value
        row: Row = {"name": name, "kind": "tensor", "dtype": str(tensor.dtype)}
        row["shape"] = list(tensor.shape)
        with suppress(CorruptError):  # part of it is missing
            row["sha256"] = hashlib.sha256(workspace.fetch(name).tobytes()).hexdigest()
        return row
    if isinstance(blob.value, bytes):
        return {"name": name, "kind": "std_string", "hex": blob.value.hex()}
    kind = "caffe2::db::DBReader" if isinstance(blob.value, DBReader) else blob.kind
    return {"name": name, "kind": "opaque", "cpp_type": kind}


def read_file(path: Path) -> dict[str, bytes]:
    """Give the records of a minidb file."""
    source = FileSource(path)
    return {key: bytes(source.read(start, stop)) for key, start, stop in read_records(source)}


def _records(path: Path) -> list[Row] | None:
    if not path.exists():
        return None
    source = FileSource(path)
    rows = []
    for key, start, stop in read_records(source):
        digest = hashlib.sha256(source.read(start, stop)).hexdigest()
        rows.append({"key": key, "len": stop - start, "sha256": digest})
    return rows
