"""What the manifest of a sharded checkpoint costs: bytes, time and memory, by its pieces.

python benchmarks/scale_manifest.py [PIECES ...]
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import sys
import time

from tensorkeep import dtypes
from tensorkeep.formats.safetensors.manifest import (
    STATE,
    File,
    Manifest,
    Piece,
    Sharded,
    parse_manifest,
)

RANKS_EACH = 10  # pieces in a file


def made(pieces: int, tensors: int) -> Manifest:
    """Give the manifest of `tensors` matrices, split evenly by rows over all files but one."""
    each = pieces // tensors
    files = {f"model-rank{rank:05}-00001.safetensors" for rank in range(pieces // RANKS_EACH)}
    listed = {name: File(1 << 40, hashlib.md5(name.encode()).hexdigest()) for name in sorted(files)}
    names = list(listed)
    listed[STATE] = File(100, "0" * 32)
    rows, columns = 16, 4096
    sharded = {}
    for tensor in range(tensors):
        inner = f"layers.{tensor}.mlp.up_proj.weight"
        boxes = []
        for at in range(each):
            start = 4096 + tensor * rows * columns * 2
            place = (tensor * each + at) % len(names)
            digest = hashlib.md5(b"%d.%d" % (tensor, at)).hexdigest()
            stop = start + rows * columns * 2
            boxes.append(
                Piece(names[place], inner, start, stop, digest, (at * rows, 0), (rows, columns))
            )
        shape = (each * rows, columns)
        sharded[f"model.{inner}"] = Sharded(dtypes.BFLOAT16, shape, boxes, ["dp", None])
    return Manifest(step=1, time=0.0, files=listed, sharded=sharded)


def peak() -> float:
    """Give the most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def reading(data: bytes, queue: multiprocessing.Queue[tuple[float, float, float]]) -> None:
    before = peak()
    start = time.process_time()
    manifest = parse_manifest(data, "manifest")
    seconds = time.process_time() - start
    start = time.process_time()
    count = sum(1 for tensor in manifest.sharded.values() for _ in tensor.pieces)
    assert count
    queue.put((seconds, peak() - before, time.process_time() - start))


def main() -> None:
    print("pieces  tensors  files  bytes  bytes/piece  dump s  parse s  parse MB  all s (of CPU)")
    for pieces in map(int, sys.argv[1:] or ("10000", "100000", "1000000")):
        for tensors in (max(1, pieces // 1000), pieces // 10):
            manifest = made(pieces, tensors)
            start = time.process_time()
            data = manifest.dump()
            dumped = time.process_time() - start
            queue: multiprocessing.Queue[tuple[float, float, float]] = multiprocessing.Queue()
            child = multiprocessing.get_context("fork").Process(target=reading, args=(data, queue))
            child.start()
            seconds, memory, iterated = queue.get()
            child.join()
            print(
                f"{pieces:8,} {tensors:8,} {len(manifest.files):8,} {len(data):12,} "
                f"{len(data) / pieces:6.1f} {dumped:7.2f} {seconds:7.2f} {memory:8.0f} "
                f"{iterated:7.2f}"
            )


if __name__ == "__main__":
    main()
