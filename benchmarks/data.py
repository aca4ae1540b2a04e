"""Measure training data in batches, beside other libraries and beside what the memory can do.

    python -m benchmarks.data --write

All read the same samples, from the same files where they can, out of the page cache. Each library
has a process of its own. In each round every loader gives one epoch, in an order that turns from
round to round; loaders, their workers and their maps stand from the first round on, which is not
counted: it checks that all samples come, each once and with its own label. A rate is the median of
the rounds, a ratio the median of the rounds' ratios.

Memory is what a library's process takes beyond its imports while epochs go on, and all of what its
workers take, shared memory once: sampled, and without maps of files, which are the page cache's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

from benchmarks import data_resume
from benchmarks.data_child import Child
from benchmarks.data_peers import CASES, KINDS, present
from benchmarks.data_resume import RESUMERS
from benchmarks.data_tables import Key, Results, markdown
from benchmarks.measure import log, rotated
from benchmarks.tables import replace

README = Path(__file__).with_name("README.md")
SECTIONS = ("rates", "memory", "resume")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--samples", type=int, default=40000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="besides one that is not counted")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WHAT",
        help=f"sections ({', '.join(SECTIONS)}), kinds of files ({', '.join((*KINDS, 'mds'))}), "
        "and parts of loaders' names",
    )
    parser.add_argument("--folder", type=Path, help="keeps the samples for another run")
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("only a whole run is for the README")
    begin = time.monotonic()
    results = Results(given.samples, given.batch, given.rounds)
    made = nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory(dir=".")
    with made as place:
        folder = Path(place) / "samples"
        command = [sys.executable, "-m", "benchmarks.data_samples"]
        subprocess.run([*command, str(folder), str(given.samples)], check=True)
        log(f"the samples are there: {time.monotonic() - begin:.0f} seconds")
        try:
            measure(folder, results, given.only)
        finally:  # what was measured before something failed is not lost
            body = markdown(results)
            print(body, flush=True)
    if given.write:
        text = replace(README.read_text(encoding="utf-8"), "data", body)
        README.write_text(text, encoding="utf-8")
    log(f"{time.monotonic() - begin:.0f} seconds")


def measure(folder: Path, results: Results, only: list[str]) -> None:
    """Measure what was chosen into `results`."""
    sections = [name for name in SECTIONS if name in only] or list(SECTIONS)
    kinds = [kind for kind in (*KINDS, "mds") if kind in only] or [*KINDS, "mds"]
    names = [part for part in only if part not in (*SECTIONS, *KINDS, "mds")]

    def chosen(name: str, library: str, kind: str) -> bool:
        named = not names or any(part in name for part in names)
        return named and kind in kinds and present(library)

    keys = [
        (name, kind)
        for name, case in CASES.items()
        for kind in case.kinds
        if chosen(name, case.library, kind)
    ]
    if set(sections) & {"rates", "memory"}:
        throughput(folder, results, keys, sections)
    if "resume" in sections:
        for name, resumer in RESUMERS.items():
            if chosen(name, resumer.library, resumer.kind):
                log(f"resume: {name}")
                results.resumed[name] = data_resume.measure(name, folder, results.batch)


def throughput(folder: Path, results: Results, keys: list[Key], sections: list[str]) -> None:
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for library in dict.fromkeys(CASES[name].library for name, _ in keys):
            child = Child(library, folder, results.samples, results.batch)
            stack.callback(child.close)
            children[library] = child
        for name, kind in keys:
            if "memory" in sections:
                child = children[CASES[name].library]
                child.ask("warm", name, kind)
                results.memory[name, kind] = child.memory(name, kind)
                log(f"memory: {name}, {kind}")
        if "rates" not in sections:
            return
        for turn in range(results.rounds + 1):
            os.sync()
            begin, what = time.monotonic(), "epoch" if turn else "check"
            for name, kind in rotated(keys, turn):  # type: ignore[type-var, arg-type]
                seconds = children[CASES[name].library].ask(what, name, kind)
                if turn:
                    results.seconds.setdefault((name, kind), []).append(seconds)
            log(f"round {turn} of {results.rounds}: {time.monotonic() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
