"""Run Save and Load of real Caffe2, one order per line, and answer with the seconds each took.

This file is run by the interpreter that has Caffe2, which may be a Python 3.8, and imported for the
workloads by the one that has tensorkeep. Orders and answers are JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

MILLION = 1000 * 1000


if TYPE_CHECKING:
    Arrays = dict[str, np.ndarray[Any, Any]]
    Random = np.random.Generator


def _float32(random: Random, count: int) -> Arrays:
    return {"x": np.frombuffer(bytearray(random.bytes(4 * count)), np.float32)}


def _small_int64(random: Random, count: int) -> Arrays:
    return {"x": random.integers(0, 100, count)}


def _ids(random: Random, count: int) -> Arrays:
    return {"x": random.integers(0, 50000, count)}


def _large_int64(random: Random, count: int) -> Arrays:
    return {"x": random.integers(-(2**63), 2**63 - 1, count)}


def _uint8(random: Random, count: int) -> Arrays:
    return {"x": random.integers(0, 256, count, np.uint8)}


def _bool(random: Random, count: int) -> Arrays:
    return {"x": random.integers(0, 2, count, np.uint8).view(np.bool_)}


def _int8(random: Random, count: int) -> Arrays:
    return {"x": random.integers(-128, 128, count, np.int8)}


def _float16(random: Random, count: int) -> Arrays:
    block = random.standard_normal(min(count, MILLION)).astype(np.float16)
    return {"x": np.resize(block, count)}


def _small_blobs(random: Random, count: int) -> Arrays:
    return {f"blob_{i:05}": random.random(256, np.float32) for i in range(count)}


class Workload(NamedTuple):
    title: str
    length: int  # in elements, or in blobs
    make: Callable[[Random, int], Arrays]
    as_bytes: bool = False  # bool and 8- and 16-bit types as plain bytes, not as varints


WORKLOADS = {
    "float32": Workload("1 GiB float32", 1 << 28, _float32),
    "int64-small": Workload("64 M int64, 0 to 99", 64 * MILLION, _small_int64),
    "int64-ids": Workload("64 M int64, 0 to 49,999", 64 * MILLION, _ids),
    "int64-large": Workload("64 M int64, any", 64 * MILLION, _large_int64),
    "uint8": Workload("100 M uint8", 100 * MILLION, _uint8),
    "bool": Workload("100 M bool", 100 * MILLION, _bool),
    "int8": Workload("100 M int8", 100 * MILLION, _int8),
    "float16": Workload("100 M float16", 100 * MILLION, _float16),
    "uint8-bytes": Workload("100 M uint8, as bytes", 100 * MILLION, _uint8, True),
    "bool-bytes": Workload("100 M bool, as bytes", 100 * MILLION, _bool, True),
    "int8-bytes": Workload("100 M int8, as bytes", 100 * MILLION, _int8, True),
    "float16-bytes": Workload("100 M float16, as bytes", 100 * MILLION, _float16, True),
    "blobs": Workload("20,000 blobs of 1 KiB", 20000, _small_blobs),
}


def build(name: str, scale: float) -> Arrays:
    """Make the arrays of a workload, the same ones in every interpreter."""
    workload = WORKLOADS[name]
    return workload.make(np.random.default_rng(0), max(1, int(workload.length * scale)))


class Oracle:
    def __init__(self, as_bytes: bool) -> None:
        from caffe2.python import core, workspace

        flag = f"--caffe2_serialize_using_bytes_as_holder={int(as_bytes)}"
        core.GlobalInit(["caffe2", flag, "--caffe2_log_level=3"])
        self.core = core
        self.workspace = workspace
        self.arrays: Arrays = {}

    def build(self, name: str, scale: float) -> None:
        self.workspace.ResetWorkspace()
        self.arrays = build(name, scale)
        for blob, array in self.arrays.items():
            self.workspace.FeedBlob("in/" + blob, array)

    def save(self, path: str, durable: bool) -> float:
        arguments = self._arguments(path, strip_prefix="in/")
        inputs = ["in/" + blob for blob in self.arrays]
        operator = self.core.CreateOperator("Save", inputs, [], **arguments)
        begin = time.perf_counter()
        self.workspace.RunOperatorOnce(operator)
        if durable:
            for target in (path, os.path.dirname(path)):
                fd = os.open(target, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
        return time.perf_counter() - begin

    def load(self, path: str, check: bool) -> float:
        operator = self.core.CreateOperator("Load", [], list(self.arrays), **self._arguments(path))
        begin = time.perf_counter()
        self.workspace.RunOperatorOnce(operator)
        seconds = time.perf_counter() - begin
        for blob, array in self.arrays.items() if check else ():
            if self.workspace.FetchBlob(blob).tobytes() != array.tobytes():
                raise SystemExit(f"{path}: Caffe2 loaded another {blob}")
        for blob in self.arrays:  # the next load takes fresh memory
            self.workspace.C.Workspace.current.remove_blob(blob)
        return seconds

    def _arguments(self, path: str, **others: Any) -> dict[str, Any]:
        return {"db": path, "db_type": "minidb", "absolute_path": 1, **others}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Caffe2 prints is no answer
    oracle = Oracle(sys.argv[1:] == ["bytes"])
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(oracle, order.pop("do"))(**order)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
