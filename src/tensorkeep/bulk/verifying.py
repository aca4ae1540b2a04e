"""The task of verifying an item."""

from __future__ import annotations

from tensorkeep.bulk.items import Item
from tensorkeep.state import Json
from tensorkeep.verify import verify as verify_target

_TOLD = 100  # tensors that a result names


def verify(item: Item) -> dict[str, Json]:
    """Read all of a file or folder that has a checksum, and say what is damaged.

    Returns:
        "format", "tensors", "bytes", "checked" (how many tensors have a checksum), "unchecked" (the
        names of the first hundred that have none), and where there is damage "problem" and
        "damaged": the name and the problem of the first hundred tensors.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
    >>> tk.save({"w": np.ones(3)}, path)
    >>> verify(Item(path))["checked"]
    1
    """
    found = verify_target(item.where)
    told: dict[str, Json] = {
        "format": found.format,
        "tensors": found.tensors,
        "bytes": found.bytes,
        "checked": found.checked,
        "unchecked": list(found.unchecked[:_TOLD]),
    }
    if found.damaged:
        tensors = f"{found.tensors:,} tensor{'' if found.tensors == 1 else 's'}"
        told["problem"] = f"{len(found.damaged):,} of {tensors}"
        told["damaged"] = [
            {"name": name, "problem": problem} for name, problem in found.damaged[:_TOLD]
        ]
    return told
