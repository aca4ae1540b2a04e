"""Train as the process that the demo kills: `python -m tensorkeep.demo FOLDER DATA EPOCHS`.

Prints a JSON object per epoch. To see the demo itself, run `tensorkeep demo`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tensorkeep.demo.training import State, train


def main() -> None:
    """Train on DATA, in FOLDER, to EPOCHS."""
    folder, data, epochs = sys.argv[1:]
    train(Path(folder), Path(data), int(epochs), _report)


def _report(state: State) -> None:
    line = {"step": state["optimizer"]["step"], **state["history"][-1]}
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
