"""Write the .params files in this folder. MXNet itself is retired and can no longer be installed.

So the bytes are put together here, by struct alone, as NDArray::Save of MXNet 1.9 (today.params and
numpy.params), 0.12 (old.params) and 0.8 (oldest.params) does. Run it with the folder to write to:
python make_mxnet.py tests/data/mxnet
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

CPU = struct.pack("<ii", 1, 0)
V1, V2, V3 = (struct.pack("<I", 0xF993FAC8 + place) for place in range(3))


def shape(*sizes: int) -> bytes:
    return struct.pack(f"<I{len(sizes)}q", len(sizes), *sizes)


def dense(sizes: tuple[int, ...], flag: int, data: bytes, version: bytes = V2) -> bytes:
    return version + struct.pack("<i", 0) + shape(*sizes) + CPU + struct.pack("<i", flag) + data


def row_sparse() -> bytes:
    """A (4, 2) array with rows 1 and 3."""
    return (
        V2
        + struct.pack("<i", 1)
        + shape(2, 2)
        + shape(4, 2)
        + CPU
        + struct.pack("<i", 0)
        + struct.pack("<i", 6)
        + shape(2)
        + struct.pack("<4f", 1, 2, 3, 4)
        + struct.pack("<2q", 1, 3)
    )


def csr() -> bytes:
    """A (2, 3) array with 5 at (0, 2) and 6, 7 at (1, 0) and (1, 1)."""
    return (
        V2
        + struct.pack("<i", 2)
        + shape(3)
        + shape(2, 3)
        + CPU
        + struct.pack("<i", 0)
        + struct.pack("<i", 6)
        + shape(3)
        + struct.pack("<i", 6)
        + shape(3)
        + struct.pack("<3f", 5, 6, 7)
        + struct.pack("<3q", 0, 1, 3)
        + struct.pack("<3q", 2, 0, 1)
    )


def none(version: bytes = V2) -> bytes:
    sizes = shape() if version == V2 else struct.pack("<i", -1)
    return version + struct.pack("<i", 0) + sizes


def v1(sizes: tuple[int, ...], flag: int, data: bytes) -> bytes:
    return V1 + shape(*sizes) + CPU + struct.pack("<i", flag) + data


def oldest(sizes: tuple[int, ...], flag: int, data: bytes) -> bytes:
    head = struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes)
    return head + CPU + struct.pack("<i", flag) + data


def whole(arrays: list[bytes], names: list[str]) -> bytes:
    out = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays)
    out += struct.pack("<Q", len(names))
    for name in names:
        out += struct.pack("<Q", len(name.encode())) + name.encode()
    return out


SIX = struct.pack("<6f", *range(6))

FILES = {
    "today.params": whole(
        [
            dense((2, 3), 0, SIX),
            dense((2,), 1, struct.pack("<2d", 1.5, -2)),
            dense((2,), 2, struct.pack("<2e", 1.5, -2)),
            dense((3,), 3, bytes([0, 1, 255])),
            dense((2,), 4, struct.pack("<2i", 1, -2)),
            dense((2,), 5, struct.pack("<2b", 1, -2)),
            dense((1, 2), 6, struct.pack("<2q", 1, -(2**40))),
            dense((2,), 7, bytes([1, 0])),
            dense((2,), 12, struct.pack("<2H", 0x3FC0, 0xC000)),
            row_sparse(),
            csr(),
            none(),
        ],
        [
            *("arg:fc1_weight", "arg:double", "aux:half", "arg:byte", "arg:int32", "arg:int8"),
            *("arg:int64", "arg:bool", "arg:bfloat16", "arg:rows", "arg:csr", "arg:none"),
        ],
    ),
    "numpy.params": whole(
        [
            dense((), 0, struct.pack("<f", 2.5), V3),
            dense((0, 3), 0, b"", V3),
            dense((2,), 10, struct.pack("<2I", 1, 2**31), V3),
            none(V3),
        ],
        ["scalar", "empty", "uint32", "none"],
    ),
    "old.params": whole([v1((2, 3), 0, SIX), v1((2,), 4, struct.pack("<2i", 1, -2))], ["w", "b"]),
    "oldest.params": whole([oldest((2, 3), 0, SIX)], ["arg:w"]),
    "list.params": whole([dense((2, 3), 0, SIX), dense((1,), 3, b"\7")], []),
}

if __name__ == "__main__":
    for file, data in FILES.items():
        Path(sys.argv[1], file).write_bytes(data)
