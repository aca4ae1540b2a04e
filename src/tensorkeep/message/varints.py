"""Packed varints to and from NumPy arrays, several values per instruction and on several threads.

A varint holds 7 bits of a 64-bit number per byte, low bits first, and every byte but its last has
the high bit set; negative numbers are sign-extended to 64 bits and take ten bytes.
Facts: protobuf.dev/programming-guides/encoding.

Arrays are worked on in blocks that stay in the processor's cache. NumPy lets go of the interpreter
lock inside each step, so blocks of different threads overlap.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.threads import working_ahead

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
_Array = npt.NDArray[Any]
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_LONGEST = 10  # bytes of a varint
_BLOCK = 1 << 17  # values encoded at a time
_TASK = 1 << 19  # values encoded by one thread before it takes the next
_DECODED = 1 << 18  # bytes decoded at a time
_COUNTED = 1 << 16  # bytes looked at together where varints are only counted
_TOGETHER = 4  # blocks decoded by one thread before it takes the next
_FEW = 5  # bytes of a varint that are decoded faster one by one
_THREADS = min(4, os.cpu_count() or 1)
_KEPT = 16 << 20
_PAIR = np.dtype("V16")

# Spreading the 7-bit groups of a number over the bytes of a lane: the upper half of the groups
# moves up by as many bits as the lower half lacks to fill its bytes, then so in each half.
# By the lane's bytes: (the bits that move, how far).
_MOVES = {
    2: ((0x3F80, 1),),
    4: ((0x0FFF_C000, 2), (0x3F80_3F80, 1)),
    8: ((0x00FF_FFFF_F000_0000, 4), (0x0FFF_C000_0FFF_C000, 2), (0x3F80_3F80_3F80_3F80, 1)),
}
_SEPTETS = {2: 0x7F7F, 4: 0x7F7F_7F7F, 8: 0x7F7F_7F7F_7F7F_7F7F}
_HIGH_BITS = {2: 0x8080, 4: 0x8080_8080, 8: 0x8080_8080_8080_8080}


def encode_varints(values: _Array, *, parallel: bool = True) -> Bytes:
    """Encode integers or booleans of any shape as packed varints; gives a 1-D uint8 array.

    Args:
        values: what to encode.
        parallel: use several threads for many values; False where the caller does.

    Raises:
        ArgumentError: the values are not integers or booleans.

    >>> encode_varints(np.array([1, 300, -1])).tobytes().hex(" ")
    '01 ac 02 ff ff ff ff ff ff ff ff ff 01'
    """
    blocks = [np.frombuffer(block, np.uint8) for block in encoded_blocks(values, parallel=parallel)]
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty(0, np.uint8), *blocks])


def encoded_blocks(
    values: _Array, block: int = _BLOCK, *, parallel: bool = True
) -> Iterator[memoryview]:
    """Encode integers or booleans `block` values at a time, so that memory stays flat.

    Args:
        values: what to encode.
        block: how many at a time; the default stays in the processor's cache.
        parallel: encode on several threads, a little ahead of the caller.

    Raises:
        ArgumentError: the values are not integers or booleans.

    >>> [piece.hex() for piece in encoded_blocks(np.array([1, 300, 3]), block=2)]
    ['01ac02', '03']
    """
    flat = _flat(values)
    blocks = [flat[start : start + block] for start in range(0, flat.size, block)]
    worth_it = parallel and bool(blocks) and _unsigned(blocks[0])[1] >= 1 << 7  # not mere copies
    together = max(1, _TASK // block) if worth_it else 0
    return (encoded.data for encoded in ahead(_encode, blocks, together))


def varints_size(values: _Array) -> int:
    """Give the bytes that integers or booleans take as packed varints, without encoding them.

    Raises:
        ArgumentError: the values are not integers or booleans.

    >>> varints_size(np.array([1, 300, -1]))
    13
    """
    flat = _flat(values)
    size = flat.size
    for start in range(0, flat.size, _BLOCK):
        block, top = _unsigned(flat[start : start + _BLOCK])
        for bits in range(7, top.bit_length(), 7):
            size += int(np.count_nonzero(block >= 1 << bits))
    return size


def count_varints(data: Buffer) -> int:
    """Count packed varints: the bytes that end one.

    >>> count_varints(bytes.fromhex("01 ac 02"))
    2
    """
    encoded = np.frombuffer(data, np.uint8)
    starts = range(0, encoded.size, _COUNTED)
    return sum(int(np.count_nonzero(encoded[at : at + _COUNTED] < 0x80)) for at in starts)


def decode_varints(
    data: Buffer,
    dtype: npt.DTypeLike,
    count: int | None = None,
    where: str = "",
    *,
    out: _Array | None = None,
    parallel: bool = True,
) -> _Array:
    """Decode packed varints to a 1-D array of an integer type or bool, casting as C does.

    Integers keep the low bits of the 64-bit number, bool is true for any but zero.

    Args:
        data: the varints.
        dtype: of the result.
        count: how many there have to be.
        where: names the bytes in messages.
        out: a 1-D array of `dtype` and `count` to fill, rather than a fresh one.
        parallel: use several threads for many bytes; False where the caller does.

    Raises:
        ArgumentError: `dtype` is neither an integer type nor bool, or `out` does not suit.
        CorruptError: the last varint is cut short, one is longer than ten bytes, or there are not
            `count` of them.

    >>> decode_varints(bytes.fromhex("01 ac 02"), np.int32).tolist()
    [1, 300]
    """
    target = _checked(np.dtype(dtype))
    encoded = np.frombuffer(data, np.uint8)
    if encoded.size and encoded[-1] >= 0x80:
        raise CorruptError("the last varint is cut short", where=where)
    blocks = _blocks(encoded, where)
    lasts = list(accumulate(count_varints(encoded[start:stop]) for start, stop in blocks))
    found = lasts[-1] if lasts else 0
    if count is not None and found != count:
        raise CorruptError(f"holds {found} varints where {count} were expected", where=where)
    if out is None:
        out = np.empty(found, target)
    elif out.dtype != target or out.shape != (found,):
        raise ArgumentError(f"{found} {target} do not go into {out.dtype} of shape {out.shape}")
    tasks = [
        (encoded[start:stop], out[first:last], start)
        for (start, stop), first, last in zip(blocks, [0, *lasts], lasts, strict=False)
    ]
    together = _TOGETHER if parallel and found < encoded.size else 0  # not for mere copies
    deque(ahead(partial(_decode, where), tasks, together), maxlen=0)
    return out


# --- encoding -----------------------------------------------------------------------------------


def _encode(values: _Array) -> Bytes:
    block, top = _unsigned(values)
    if top < 1 << 7:
        return block.astype(np.uint8)
    if top < 1 << 14:
        return _encode_short(block.astype("<u2"))
    if top < 1 << 28:
        return _encode_short(block.astype("<u4"))
    words = block.astype("<u8")
    return _encode_words(words) if top < 1 << 56 else _encode_pairs(words)


def _encode_short(lanes: _Array) -> Bytes:
    """Encode numbers of up to 7 bits per byte of their lane, by leaving out the bytes not used."""
    kept = _spread(lanes)
    kept <<= 8
    kept |= 0x80  # a byte is kept if the one below it says that it follows; the first one always
    kept >>= 7
    return np.compress(kept.view(np.bool_), lanes.view(np.uint8))


def _encode_words(words: _Array) -> Bytes:
    """Encode numbers of up to 56 bits."""
    lengths = np.bitwise_count(_spread(words))
    lengths += 1
    return _lay(words, lengths)


def _encode_pairs(words: _Array) -> Bytes:
    """Encode numbers of up to 64 bits: 56 in one word, and 8 in one behind it."""
    pairs = np.empty((words.size, 2), "<u8")
    high = words >> 56
    words &= (1 << 56) - 1
    lengths = np.bitwise_count(_spread(words, high))
    lengths += 1
    pairs[:, 0] = words
    tenth = high & 0x80  # the ninth byte goes on, and the tenth is 1
    high += tenth
    high += tenth
    pairs[:, 1] = high
    lengths += (tenth >> 7).astype(np.uint8)
    return _lay(pairs.reshape(-1).view(_PAIR), lengths)


def _spread(lanes: _Array, beyond: _Array | None = None) -> _Array:
    """Turn numbers into varints in place; give the high bits of the bytes that go on.

    `beyond` tells, where it is not zero, that more follows than the lane can hold.
    """
    size = lanes.itemsize
    for moving, distance in _MOVES[size]:
        upper = lanes & moving
        upper *= (1 << distance) - 1
        lanes += upper
    more = lanes >> 8
    if beyond is not None:
        more |= np.minimum(beyond, 1) << 56
    distance = 8
    while distance < 8 * (size - 1):  # what is set in a byte is set in all below it
        more |= more >> distance
        distance *= 2
    more += _SEPTETS[size]  # carries into the high bit of every byte that is not zero
    more &= _HIGH_BITS[size]
    lanes |= more
    return more


def _lay(lanes: _Array, lengths: Bytes) -> Bytes:
    """Lay the first bytes of each lane end to end.

    Whole lanes are stored, each at the end of the one before, whose unused bytes it overwrites:
    NumPy stores in the order of the indices.
    """
    starts = np.cumsum(lengths, dtype=np.int64)
    size = int(starts[-1])
    starts -= lengths
    out = np.empty(size + lanes.itemsize, np.uint8)
    np.ndarray(size + 1, lanes.dtype, out.data, strides=(1,))[starts] = lanes
    return out[:size]


# --- decoding -----------------------------------------------------------------------------------


def _blocks(encoded: Bytes, where: str) -> list[tuple[int, int]]:
    """Cut into ranges of about `_DECODED` bytes that end where a varint ends."""
    blocks = []
    start = 0
    while start < encoded.size:
        stop = min(start + _DECODED, encoded.size)
        ends = np.flatnonzero(encoded[stop - 1 : stop - 1 + _LONGEST] < 0x80)
        if not ends.size:
            raise _overlong(stop, where)
        stop += int(ends[0])
        blocks.append((start, stop))
        start = stop
    return blocks


def _decode(where: str, task: tuple[Bytes, _Array, int]) -> None:
    block, out, offset = task
    if block.size == out.size:
        _cast(block, out)
        return
    ends = block < 0x80
    bits = 64 if out.dtype.kind == "b" else 8 * out.itemsize
    short = bool(np.all(ends[1:] | ends[:-1]))
    if short and bits == 8 and (numbers := _of_bytes(block, ends)) is not None:
        _cast(numbers, out)
        return
    stops = np.flatnonzero(ends)
    if short:
        _cast(_of_two(block, stops, _lane(min(bits, 14))), out)
        return
    starts = np.zeros_like(stops)
    np.add(stops[:-1], 1, out=starts[1:])
    stops -= starts
    longest = int(stops.max()) + 1
    if longest > _LONGEST:
        raise _overlong(offset + int(starts[stops.argmax()]), where)
    wanted = min(longest, -(-bits // 7))  # bytes: those beyond do not change the result
    if wanted <= _FEW:
        _cast(_by_bytes(block, starts, wanted, _lane(min(bits, 7 * wanted))), out)
    else:
        _cast(_by_words(block, starts, longest), out)


def _of_bytes(block: Bytes, ends: npt.NDArray[np.bool_]) -> Bytes | None:
    """Leave out the second bytes, where they only say again that the high bit is set."""
    firsts = np.ones_like(ends)
    firsts[1:] = ends[:-1]
    odd = block | firsts.view(np.uint8)
    odd &= 1
    numbers: Bytes = np.compress(firsts, block)
    return numbers if odd.all() else None


def _of_two(block: Bytes, stops: _Array, lane: np.dtype[Any]) -> _Array:
    """Decode varints of one or two bytes: at every byte, as if it were the last; the last count."""
    numbers = block.astype(lane)
    before = block[:-1]
    going_on = before >> 7
    numbers[1:] *= going_on * 127 + 1
    numbers[1:] |= before & np.negative(going_on) & 0x7F
    return np.take(numbers, stops, mode="clip")


def _by_bytes(block: Bytes, places: _Array, wanted: int, lane: np.dtype[Any]) -> _Array:
    """Decode the first bytes of all the varints, then the second ones of those that go on."""
    taken = np.take(block, places, mode="clip")
    numbers = (taken & 0x7F).astype(lane)
    for place in range(1, wanted):
        going_on = np.negative(taken >> 7)  # 255 or 0
        places += 1
        taken = np.take(block, places, mode="clip")
        taken &= going_on
        septets = (taken & 0x7F).astype(lane)
        septets <<= 7 * place
        numbers |= septets
    return numbers


def _by_words(block: Bytes, places: _Array, longest: int) -> _Array:
    """Decode eight bytes of each varint at once, and the two behind them where there are any."""
    words = np.zeros(-(-block.size // 8), "<u8")
    words.view(np.uint8)[: block.size] = block
    down = (places & 7).view(np.uint64)
    down <<= 3
    up = 64 - down  # a shift by all 64 bits gives 0
    places >>= 3
    low = np.take(words, places, mode="clip")
    low >>= down
    places += 1
    following = np.take(words, places, mode="clip")
    low |= following << up
    ends = ~low
    ends &= _HIGH_BITS[8]
    high: _Array | None = None
    if longest > 8:
        places += 1
        high = np.take(words, places, mode="clip")
        high <<= up
        high |= following >> down
        tenth = high >> 1  # in bit 7, the lowest bit of the tenth byte
        tenth &= high  # if the ninth goes on; the bits beyond are shifted out
        high &= 0x7F
        high |= tenth
        high <<= 56
        high *= ends == 0
    ends ^= ends - 1  # the bits of all bytes up to the first that ends a varint
    ends &= _SEPTETS[8]
    low &= ends
    for moved, distance in reversed(_MOVES[8]):
        upper = low & (moved << distance)
        low ^= upper
        upper >>= distance
        low |= upper
    if high is not None:
        low |= high
    return low


def _lane(bits: int) -> np.dtype[Any]:
    return np.dtype(next(f"u{size}" for size in (1, 2, 4, 8) if bits <= 8 * size))


def _cast(numbers: _Array, out: _Array) -> None:
    if out.dtype.kind == "b":
        np.not_equal(numbers, 0, out=out)
    else:
        np.copyto(out, numbers, casting="unsafe")


def _overlong(at: int, where: str) -> CorruptError:
    return CorruptError(f"the varint around byte {at} is longer than ten bytes", where=where)


# --- both ---------------------------------------------------------------------------------------


def _checked(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "biu":
        raise ArgumentError(
            f"dtype {dtype} has no varints", cure="View the bits as an integer type first."
        )
    return dtype


def _flat(values: _Array) -> _Array:
    flat = np.asarray(values).reshape(-1)
    return flat.astype(_checked(flat.dtype).newbyteorder("="), copy=False)


def _unsigned(block: _Array) -> tuple[_Array, int]:
    """View values as the unsigned numbers that are encoded; give the largest one too."""
    if block.dtype.kind == "i":
        unsigned = block.view(f"u{block.itemsize}")
        top = int(unsigned.max())
        if not top >> (8 * block.itemsize - 1):
            return unsigned, top
        block = block.astype(np.int64).view(np.uint64)
    return block, int(block.max())


def ahead(
    function: Callable[[_Task], _Result], tasks: Sequence[_Task], together: int = 1
) -> Iterator[_Result]:
    """Give what a function makes of each task, in order.

    Several threads work a little way ahead of the caller, each on some tasks `together`; with 0
    the caller's own does. Where there is no more than these, no thread is worth starting.

    >>> list(ahead(len, ["one", "three"]))
    [3, 5]
    """
    if len(tasks) > 1:
        _keep_freed_memory()
    if _THREADS < 2 or not together or len(tasks) <= together:
        yield from map(function, tasks)
        return
    with working_ahead(_THREADS) as pool:
        waiting: deque[Future[list[_Result]]] = deque()
        for start in range(0, len(tasks), together):
            waiting.append(pool.submit(_map, function, tasks[start : start + together]))
            if len(waiting) > _THREADS + 1:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _map(function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> list[_Result]:
    return [function(task) for task in tasks]


@cache
def _keep_freed_memory() -> None:
    """Let malloc keep what a block frees for the next one.

    Touching new memory can take three times as long as the work in it, and glibc gives freed blocks
    back to the system if they are larger than any that was freed before.
    """
    np.empty(_KEPT, np.uint8)
