"""The command line of the crash tests."""

from __future__ import annotations

import argparse
import sys

import tests.crash
from tests.crash import checkpoints, peers, saves


def main(arguments: list[str] | None = None) -> int:
    """Run trials and report; gives the exit code."""
    parser = argparse.ArgumentParser(
        description=tests.crash.__doc__,
        prog="python -m tests.crash",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", choices=["saves", "checkpoints"], default="saves")
    parser.add_argument("--peers", action="store_true", help="kill other libraries' saves, too")
    parser.add_argument("--only", default="", help="those peers whose names have this in them")
    parser.add_argument("--write", action="store_true", help="put the table into the docs")
    chosen = parser.parse_args(arguments)
    if chosen.peers:
        peers.report(chosen.trials, chosen.seed, chosen.only, chosen.write)
        return 0
    what = checkpoints.report if chosen.what == "checkpoints" else saves.run
    return 1 if what(chosen.trials, chosen.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
