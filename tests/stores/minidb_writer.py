"""A process that writes one minidb for ever, to be killed; and what it must have left.

python -m tests.stores.minidb_writer FILE
"""

from __future__ import annotations

import random
import sys

from tensorkeep.stores.minidb import MinidbStore

_STEPS_OF_A_FILE = 5


def change(step: int) -> list[tuple[str, bytes | None]]:
    """Give what a step puts and deletes: a few small and large records."""
    draw = random.Random(step)
    made: list[tuple[str, bytes | None]] = [("step", str(step).encode())]
    for _ in range(4):
        size = draw.choice([1, 1000, 70_000, 400_000])
        made.append((f"r{draw.randrange(9)}", bytes([step % 256]) * size))
    return [*made, (f"r{draw.randrange(9)}", None)]


def contents_after(last: int) -> list[tuple[str, bytes]]:
    """Give the records of the file after a step."""
    held: dict[str, bytes] = {}
    for step in range(last - last % _STEPS_OF_A_FILE, last + 1):
        for key, value in change(step):
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
    return list(held.items())


def write_for_ever(path: str) -> None:
    """Commit one step after another, each announced once it is done."""
    for step in range(10**9):
        with MinidbStore(path, "write" if step % _STEPS_OF_A_FILE else "new") as store:
            for key, value in change(step):
                if value is None:
                    store.delete(key)
                else:
                    store.put(key, [value], durable=step % 3 == 0)
            store.commit()
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    write_for_ever(sys.argv[1])
