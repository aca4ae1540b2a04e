"""Measure tensorkeep beside other libraries and the machine's own limit."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks import measure, memory, peers, tables
from benchmarks.workloads import WORKLOADS

README = Path(__file__).with_name("README.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=WORKLOADS, help="one workload")
    parser.add_argument("--rounds", type=int, default=7, help="the first is not counted")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the harness")
    parser.add_argument("--reuse", action="store_true", help="let malloc reuse freed memory")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory tables")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save (10 GB)")
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("at least 2 rounds: the first is not counted")
    if given.quick and given.write:
        parser.error("--quick figures mean nothing: they are not for the README")
    if tables.filesystem(given.folder) in ("tmpfs", "ramfs"):
        parser.error("the folder is in memory; give one on a disk with --folder")
    begin = time.monotonic()
    sections = {"machine": tables.machine(given.folder)}
    for name, peer in peers.PEERS.items():
        if peer.missing:
            measure.log(f"{name} is left out: {peer.needs} is not installed")
    for name in [given.only] if given.only else WORKLOADS:
        sections[name] = section(name, given)
    for name, body in sections.items():
        title = WORKLOADS[name].title if name in WORKLOADS else "Machine"
        print(f"## {title}\n\n{body}")
    if given.write:
        text = README.read_text(encoding="utf-8")
        for name, body in sections.items():
            text = tables.replace(text, name, body)
        README.write_text(text, encoding="utf-8")
    measure.log(f"{time.monotonic() - begin:.0f} seconds")


def section(name: str, given: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(dir=given.folder, prefix=".benchmarks-") as folder:
        results, files = measure.run(
            WORKLOADS[name], Path(folder), rounds=given.rounds, quick=given.quick, reuse=given.reuse
        )
        if not given.no_memory:
            measure.log(f"{name}: memory")
            for peer in [*peers.present("ours"), *peers.present("peer")]:
                file = files[peers.PEERS[peer].reads or peer]
                results.memory[peer] = memory.measure(peer, name, file, quick=given.quick)
        return tables.markdown(results)


if __name__ == "__main__":
    main()
