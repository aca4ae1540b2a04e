"""`tensorkeep consolidate`: a checkpoint of many processes as files that other tools load."""

from __future__ import annotations

from typing import Annotated

import typer

from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, several, size, warn


def consolidate(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The checkpoint: a folder or an URL.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A folder, or a file that ends in .safetensors.")
    ],
    part: Annotated[
        str, typer.Option(metavar="NAME", help="Which top-level entry of the state to write.")
    ] = "model",
    everything: Annotated[
        bool, typer.Option("--all", help="Write all of the state, by full names.")
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="How large a file may be, such as 5GB.")
    ] = "5GB",
    as_json: JsonOption = False,
) -> int:
    """Write the whole tensors of a sharded checkpoint as safetensors, with flat memory.

    The model alone, unless said otherwise: TARGET/model.safetensors, or shards and the usual index.
    Each piece is checked on the way.

    With --json: {"target", "tensors", "bytes", "left": [PART]}.
    """
    from tensorkeep.distributed.consolidating import consolidate as consolidate_all

    with progress("consolidating") as report:
        done = consolidate_all(
            source,
            target,
            part=part,
            everything=everything,
            max_shard_size=max_shard_size,
            progress=report,
        )
    if as_json:
        say_json(
            {
                "target": done.where,
                "tensors": done.tensors,
                "bytes": done.bytes,
                "left": done.left,
            }
        )
        return 0
    say(f"{clean(done.where)}: {several(done.tensors, 'tensor')}, {size(done.bytes)}")
    if done.left:
        warn(f"left out: {clean(', '.join(done.left))}; --part NAME or --all writes them")
    return 0
