"""One tensor in a file, apart from its model."""

from __future__ import annotations

from tensorkeep.source import Window
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.nnef.tensors import HEADER, MAGIC, open_elements, read_header


def accepts(location: Location) -> bool:
    """A tensor file of NNEF."""
    return bool(location.key) and location.head.startswith(MAGIC)


def decode(location: Location) -> State:
    """Give the tensor under the name of its file."""
    source = location.source
    head = bytes(source.read(0, min(HEADER, source.size)))
    header = read_header(head, source.size, location.where)
    name = location.name.rpartition(".")[0] or location.name
    tensor = open_elements(Window(source, header.start, header.nbytes), header)
    return State(
        {name: tensor},
        remarks={name: header.remark} if header.remark else None,
        format="nnef-tensor",
        where=location.where,
        close=location.close,
    )
