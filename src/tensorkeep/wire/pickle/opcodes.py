"""What each instruction of a pickle does: one function per instruction, one table.

A function takes the stack and where its operand starts, and gives where the next instruction does.

Facts from Python's pickletools, for protocols 0 to 5.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tensorkeep.errors import UnsupportedError
from tensorkeep.wire.pickle.literals import (
    Step,
    binfloat,
    binint1,
    binstring,
    binunicode,
    constant,
    float_line,
    fresh,
    int_line,
    integer,
    line,
    long1,
    long4,
    long_line,
    short_binstring,
    sized_bytes,
    sized_text,
    string_line,
    take,
    text_line,
    unicode_line,
)
from tensorkeep.wire.pickle.stack import Stack, Stop
from tensorkeep.wire.pickle.values import Opaque

HIGHEST = 5
_from_bytes = int.from_bytes

TABLE: list[Step] = []


# --- containers ---------------------------------------------------------------------------------


def _mark(m: Stack, at: int) -> int:
    m.marks.append(m.items)
    m.items = []
    return at


def _tuple(m: Stack, at: int) -> int:
    above = m.pop_mark()
    m.items.append(tuple(above))
    return at


def _tuple_of(count: int) -> Step:
    def step(m: Stack, at: int) -> int:
        items = m.items
        taken = tuple(items[-count:])
        if len(taken) < count:
            raise m.broken("takes more from its stack than there is")
        items[-count:] = (taken,)
        return at

    return step


def _list(m: Stack, at: int) -> int:
    above = m.pop_mark()
    m.items.append(above)
    return at


def _append(m: Stack, at: int) -> int:
    value = m.items.pop()
    _extend(m, m.items[-1], [value])
    return at


def _appends(m: Stack, at: int) -> int:
    above = m.pop_mark()
    _extend(m, m.items[-1], above)
    return at


def _extend(m: Stack, target: Any, values: list[Any]) -> None:
    if type(target) is list or type(target) is deque:
        target.extend(values)
    elif type(target) is Opaque:
        target.items.extend(values)
    else:
        raise m.broken(f"appends to a {type(target).__name__}")


def _dict(m: Stack, at: int) -> int:
    above = m.pop_mark()
    fresh: dict[Any, Any] = {}
    _set(m, fresh, above)
    m.items.append(fresh)
    return at


def _setitem(m: Stack, at: int) -> int:
    value = m.items.pop()
    key = m.items.pop()
    _set(m, m.items[-1], [key, value])
    return at


def _setitems(m: Stack, at: int) -> int:
    above = m.pop_mark()
    _set(m, m.items[-1], above)
    return at


def _set(m: Stack, target: Any, flat: list[Any]) -> None:
    if len(flat) % 2:
        raise m.broken("has a key without a value")
    for key in flat[::2]:
        if type(key) is not str:
            m.check_key(key)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    if isinstance(target, dict):
        target.update(pairs)
    elif type(target) is Opaque:
        target.pairs.extend(pairs)
    else:
        raise m.broken(f"sets items of a {type(target).__name__}")


def _additems(m: Stack, at: int) -> int:
    above = m.pop_mark()
    target = m.items[-1]
    if type(target) is Opaque:
        target.items.extend(above)
        return at
    if type(target) is not set:
        raise m.broken(f"adds items to a {type(target).__name__}")
    for item in above:
        m.check_key(item)
    target.update(above)
    return at


def _frozenset(m: Stack, at: int) -> int:
    above = m.pop_mark()
    for item in above:
        m.check_key(item)
    m.items.append(frozenset(above))
    return at


# --- the stack and the memo ---------------------------------------------------------------------


def _pop(m: Stack, at: int) -> int:
    if m.items:
        m.items.pop()
    else:
        m.pop_mark()
    return at


def _pop_mark(m: Stack, at: int) -> int:
    m.pop_mark()
    return at


def _dup(m: Stack, at: int) -> int:
    m.items.append(m.items[-1])
    return at


def _binput(m: Stack, at: int) -> int:
    m.memo[m.data[at]] = m.items[-1]
    return at + 1


def _long_binput(m: Stack, at: int) -> int:
    stop = at + 4
    m.memo[_from_bytes(m.data[at:stop], "little")] = m.items[-1]
    return stop


def _put(m: Stack, at: int) -> int:
    raw, at = line(m, at, 20)
    m.memo[int(raw)] = m.items[-1]
    return at


def _memoize(m: Stack, at: int) -> int:
    m.memo[len(m.memo)] = m.items[-1]
    return at


def _binget(m: Stack, at: int) -> int:
    m.items.append(m.memo[m.data[at]])
    return at + 1


def _long_binget(m: Stack, at: int) -> int:
    stop = at + 4
    m.items.append(m.memo[_from_bytes(m.data[at:stop], "little")])
    return stop


def _get(m: Stack, at: int) -> int:
    raw, at = line(m, at, 20)
    m.items.append(m.memo[int(raw)])
    return at


# --- names and objects --------------------------------------------------------------------------


def _global(m: Stack, at: int) -> int:
    module, at = text_line(m, at)
    name, at = text_line(m, at)
    m.items.append(m.find(module, name))
    return at


def _stack_global(m: Stack, at: int) -> int:
    name = m.items.pop()
    module = m.items.pop()
    m.items.append(m.find(module, name))
    return at


def _extension(width: int) -> Step:
    def step(m: Stack, at: int) -> int:
        stop = at + width
        code = int.from_bytes(take(m, at, stop), "little")
        m.items.append(m.find("copyreg", f"extension_{code}"))
        return stop

    return step


def _reduce(m: Stack, at: int) -> int:
    args = m.items.pop()
    m.items.append(m.call(m.items.pop(), args))
    return at


def _inst(m: Stack, at: int) -> int:
    module, at = text_line(m, at)
    name, at = text_line(m, at)
    args = tuple(m.pop_mark())
    m.items.append(m.call(m.find(module, name), args))
    return at


def _obj(m: Stack, at: int) -> int:
    above = m.pop_mark()
    m.items.append(m.call(above[0], tuple(above[1:])))
    return at


def _newobj_ex(m: Stack, at: int) -> int:
    kwargs = m.items.pop()
    args = m.items.pop()
    if type(kwargs) is not dict or not all(type(key) is str for key in kwargs):
        raise m.broken("calls a class with keywords that are none")
    m.items.append(m.call(m.items.pop(), args, kwargs))
    return at


def _build(m: Stack, at: int) -> int:
    state = m.items.pop()
    m.build(m.items[-1], state)
    return at


def _persistent(m: Stack, identifier: Any) -> None:
    if m.persistent is None:
        raise UnsupportedError(
            "its pickle speaks of objects that are kept somewhere else", where=m.where
        )
    m.items.append(m.persistent(identifier))


def _persid(m: Stack, at: int) -> int:
    identifier, at = text_line(m, at)
    _persistent(m, identifier)
    return at


def _binpersid(m: Stack, at: int) -> int:
    _persistent(m, m.items.pop())
    return at


# --- the rest -----------------------------------------------------------------------------------


def _proto(m: Stack, at: int) -> int:
    if m.data[at] > HIGHEST:
        raise UnsupportedError(
            f"its pickle is of protocol {m.data[at]}, not {HIGHEST} or lower", where=m.where
        )
    return at + 1


def _frame(m: Stack, at: int) -> int:
    start = at + 8
    take(m, start, start + int.from_bytes(take(m, at, start), "little"))
    return start


def _buffer(m: Stack, at: int) -> int:
    raise UnsupportedError(
        "its pickle speaks of buffers that are kept outside of it",
        where=m.where,
        cure="Pickle it again without a buffer_callback.",
    )


def _stop(m: Stack, at: int) -> int:
    raise Stop


def _unknown(m: Stack, at: int) -> int:
    raise m.broken(f"has the instruction 0x{m.data[at - 1]:02x} at byte {at - 1}, which is none")


_STEPS: dict[bytes, Step] = {
    b"N": constant(None),
    b"\x88": constant(True),
    b"\x89": constant(False),
    b"I": int_line,
    b"L": long_line,
    b"J": integer(4, signed=True),
    b"K": binint1,
    b"M": integer(2),
    b"\x8a": long1,
    b"\x8b": long4,
    b"F": float_line,
    b"G": binfloat,
    b"V": unicode_line,
    b"X": binunicode,
    b"\x8c": sized_text(1),
    b"\x8d": sized_text(8),
    b"S": string_line,
    b"T": binstring,
    b"U": short_binstring,
    b"C": sized_bytes(1),
    b"B": sized_bytes(4),
    b"\x8e": sized_bytes(8),
    b"\x96": sized_bytes(8, bytearray),
    b"(": _mark,
    b")": constant(()),
    b"t": _tuple,
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": fresh(list),
    b"l": _list,
    b"a": _append,
    b"e": _appends,
    b"}": fresh(dict),
    b"d": _dict,
    b"s": _setitem,
    b"u": _setitems,
    b"\x8f": fresh(set),
    b"\x90": _additems,
    b"\x91": _frozenset,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _dup,
    b"p": _put,
    b"q": _binput,
    b"r": _long_binput,
    b"\x94": _memoize,
    b"g": _get,
    b"h": _binget,
    b"j": _long_binget,
    b"c": _global,
    b"\x93": _stack_global,
    b"\x82": _extension(1),
    b"\x83": _extension(2),
    b"\x84": _extension(4),
    b"R": _reduce,
    b"i": _inst,
    b"o": _obj,
    b"\x81": _reduce,  # a class and its arguments: what a function and its arguments are
    b"\x92": _newobj_ex,
    b"b": _build,
    b"P": _persid,
    b"Q": _binpersid,
    b"\x80": _proto,
    b"\x95": _frame,
    b"\x97": _buffer,
    b"\x98": _buffer,
    b".": _stop,
}
TABLE.extend(_STEPS.get(bytes([code]), _unknown) for code in range(256))
