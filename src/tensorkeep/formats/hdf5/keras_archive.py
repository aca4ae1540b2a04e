"""keras: a whole model of Keras 3, `.keras`: a zip archive of its architecture and its weights.

    metadata.json        which Keras wrote it, and when
    config.json          how the model is built
    model.weights.h5     its variables and its optimizer's, as `keras_weights` has them
    assets/...           files that layers bring along, such as vocabularies

Nothing is unpacked: the weights are read where they are, and assets are tensors of bytes. Keras can
keep weights as `model.weights.npz` instead, but only in a pickle; those are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import cast

from tensorkeep.dtypes import UINT8
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.format import Stream
from tensorkeep.formats.hdf5.keras_config import MAX_BYTES, code_in, parse_config
from tensorkeep.formats.hdf5.keras_names import ASSETS
from tensorkeep.formats.hdf5.keras_weights import KEY, decode_source
from tensorkeep.formats.hdf5.keras_writing import keras_metadata, variables_losses, write_weights
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import dump_json
from tensorkeep.wire.zip import (
    MAGIC,
    Member,
    check_member,
    data_start,
    is_unsafe,
    member_names,
    open_member,
    read_directory,
)
from tensorkeep.wire.zip_writer import Part, write_zip, zip_size

_TOLD = {"config", "metadata", "assets", "code", "not read"}  # by other members of an archive

CONFIG, METADATA = "config.json", "metadata.json"
WEIGHTS, PICKLED = "model.weights.h5", "model.weights.npz"


def accepts(location: Location) -> bool:
    """A zip archive with an architecture and weights."""
    if not location.head.startswith(MAGIC):
        return False
    try:
        names = set(member_names(location.source))
    except TensorKeepError:
        return False
    return CONFIG.encode() in names and not names.isdisjoint({WEIGHTS.encode(), PICKLED.encode()})


def decode(location: Location) -> State:
    """Read the architecture, and where the variables are."""
    source, where = location.source, location.where
    members = read_directory(source)
    for name in (CONFIG, WEIGHTS):
        if name not in members:
            raise _lacks(name, members, where)
    keras: dict[str, Json] = {
        name.removesuffix(".json"): parse_config(_read(source, members[name]), where, name)
        for name in (METADATA, CONFIG)
        if name in members
    }
    if code := code_in(keras["config"]):
        keras["code"] = code
    tensors: dict[str, Tensor] = {}
    checks: dict[str, Callable[[], None]] = {}
    strangers: list[Json] = []
    for name, member in members.items():
        if name.startswith(ASSETS) and not name.endswith("/"):
            tensors[name] = Tensor(UINT8, (member.size,), open_member(source, member))
            checks[name] = partial(check_member, source, member)
        elif name not in (METADATA, CONFIG, WEIGHTS) and not name.endswith("/"):
            data_start(source, member)  # a damaged name is none of a stranger's
            strangers.append(name)
    if strangers:
        keras["not read"] = strangers
    if tensors:
        keras["assets"] = {name: tensor.nbytes for name, tensor in tensors.items()}
    weights = members[WEIGHTS]
    inner = decode_source(open_member(source, weights), f"{where}: {WEIGHTS}", location.close)
    check = cache(partial(check_member, source, weights))  # once, whatever the number of tensors
    checks.update({name: check for name in inner if name not in inner.digests})
    found = inner.metadata.get(KEY)
    return inner.replace(
        tensors={**inner, **tensors},
        metadata=inner.metadata | {KEY: (found if isinstance(found, dict) else {}) | keras},
        checks=checks,
        format="keras",
        where=where,
    )


def _lacks(name: str, members: Mapping[str, Member], where: str) -> Exception:
    if name == WEIGHTS and PICKLED in members:
        return UnsupportedError(
            f"keeps its weights in {PICKLED}, as pickles, which can run code",
            where=where,
            cure="Load it with Keras and save it again, with weights_format='h5'.",
        )
    return CorruptError(f"has no {name}, which a .keras file holds", where=where)


def _read(source: Source, member: Member) -> bytes:
    """Read a small member whole, checked against its CRC-32."""
    if member.size > MAX_BYTES:
        raise UnsafeError(
            f"its {member.name} of {member.size:,} bytes is over the limit of {MAX_BYTES:,}",
            where=source.where,
        )
    check_member(source, member)
    return bytes(open_member(source, member).read(0, member.size))


# --- writing ------------------------------------------------------------------------------------


def losses(state: State) -> list[str]:
    """Say which tensors have no place in an archive, and whether the architecture is missing."""
    found = variables_losses(state)
    if not isinstance(keras_metadata(state).get("config"), dict | str):
        found.append(
            "its metadata do not say how the model is built: keras.config, as the config.json of a "
            ".keras file has it; .weights.h5 does without"
        )
    for name in state:
        if name.startswith(ASSETS) and (is_unsafe(name) or state[name].dtype is not UINT8):
            found.append(f"{name!r} is not the bytes of a file")
    return found


def encode(state: State, location: Location, *, checksums: bool = True) -> Iterator[Stream]:
    """Write a model, for `keras.saving.load_model`.

    Args:
        state: what to write, with its architecture in the metadata as `keras.config`.
        location: where to.
        checksums: keep the digests of the variables beside the archive's CRC-32 of each member.
    """
    keras = keras_metadata(state)
    configs = {
        name: _text(keras.get(name.removesuffix(".json"), {})).encode()
        for name in (METADATA, CONFIG)
    }
    left = {key: value for key, value in keras.items() if key not in _TOLD}
    metadata = {key: value for key, value in state.metadata.items() if key != KEY}
    variables = {name: tensor for name, tensor in state.items() if not name.startswith(ASSETS)}
    inner = write_weights(
        WEIGHTS,
        state.replace(tensors=variables, metadata=metadata | ({KEY: left} if left else {})),
        checksums=checksums,
    )
    parts = [Part(name, len(text), partial(_once, text)) for name, text in configs.items()]
    parts.append(Part(WEIGHTS, inner.size or 0, lambda: cast(Iterable[Chunk], inner.chunks)))
    parts += [
        Part(name, tensor.nbytes, tensor.pieces)
        for name, tensor in state.items()
        if name.startswith(ASSETS)
    ]
    yield Stream(location.key, write_zip(parts), zip_size(parts))


def _text(config: Json) -> str:
    return config if isinstance(config, str) else dump_json(config)


def _once(text: bytes) -> list[Chunk]:
    return [text]
