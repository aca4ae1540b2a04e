"""Pickles that are cut, damaged or made to exhaust their reader."""

from __future__ import annotations

import pickle
import random
import struct
import time
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import errors
from tensorkeep.wire.pickle.arrays import ARRAYS, PickledArray, PickledScalar
from tensorkeep.wire.pickle.machine import read_pickle
from tensorkeep.wire.pickle.plain import PLAIN

VALUE = {
    "a": [1, -5, 2**70, 1.5, "ü", b"x\xff", (1,), (1, 2), (1, 2, 3, 4), None, True],
    "b": [{1, 2}, frozenset((1,)), bytearray(b"abc"), 1 + 2j, range(3)],
    "c": [OrderedDict(a=1), defaultdict(int, b=2)],
    "d": [np.arange(3), np.float32(1), np.zeros(2, ">f4")],
}


def read(data: bytes) -> Any:
    found = read_pickle(data, "a.pkl", allowed=PLAIN | ARRAYS, persistent=lambda name: name)
    waiting = [found.value]
    for value in waiting:
        if isinstance(value, PickledArray | PickledScalar):
            value.numpy()
        elif isinstance(value, dict) and len(waiting) < 1000:
            waiting.extend(value.values())
        elif isinstance(value, list) and len(waiting) < 1000:
            waiting.extend(value)
    return found


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation(protocol: int) -> None:
    data = pickle.dumps(VALUE, protocol)
    for length in range(len(data)):
        with pytest.raises(errors.CorruptError, match="pickle"):
            read(data[:length])


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_flipped_bits(protocol: int) -> None:
    data = pickle.dumps(VALUE, protocol)
    for at in range(len(data)):
        for bit in (at % 8, (at + 3) % 8, 7):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                read(bytes(flipped))
            except errors.TensorKeepError:
                continue


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        read(data)
    except errors.TensorKeepError:
        return


def test_random_instructions() -> None:
    """Programs of valid instructions in any order, with small operands."""
    chooser = random.Random(7)
    codes = b"(()]}{N\x88\x89K\x01K\x02U\x01aX\x01\0\0\0a\x85\x86\x87aesudtlR\x81obQ02q\0h\0"
    codes += b"\x94\x8f\x90\x91c\x93"
    for _ in range(5_000):
        data = bytes(chooser.choice(codes) for _ in range(chooser.randrange(1, 24))) + b"."
        try:
            read(data)
        except errors.TensorKeepError:
            continue


HOSTILE = {
    "an unknown instruction": (b"\xff.", "0xff at byte 0"),
    "a later protocol": (b"\x80\x06N.", "protocol 6"),
    "no value": (b".", "left on its stack, or nothing"),
    "two values": (b"NN.", "left on its stack"),
    "an open mark": (b"(N.", "left on its stack"),
    "nothing to pop": (b"0.", "takes more from its stack"),
    "no mark": (b"Nt.", "takes more from its stack"),
    "a tuple of too much": (b"N\x86.", "takes more from its stack"),
    "a value never kept": (b"h\x05.", "has not kept"),
    "a key alone": (b"(Nd.", "a key without a value"),
    "items of a number": (b"K\x01(NNu.", "sets items of a int"),
    "append to a tuple": (b")Na.", "appends to a tuple"),
    "add to a list": (b"](N\x90.", "adds items to a list"),
    "a list for a key": (b"}]Ns.", "a list for a key"),
    "a list in a key": (b"}]\x85Ns.", "a list in a key"),
    "a dict in a set": (b"\x8f(}\x90.", "a dict for a key"),
    "attributes of a list": (b"]}b.", "gives a list attributes"),
    "a call of a number": (b"K\x01)R.", "calls a int"),
    "a call without a tuple": (b"cos\nsystem\nNR.", "without a tuple"),
    "a call of None": (b"N)\x81.", "calls a NoneType"),
    "an empty object": (b"(o.", "takes more from its stack"),
    "a module that is no text": (b"NN\x93.", "from what is no text"),
    "a buffer from outside": (b"\x97.", "buffers that are kept outside"),
    "a read-only buffer": (b"N\x98.", "buffers that are kept outside"),
    "a long longer than the file": (b"\x8b\xff\xff\xff\x7f\0.", "ends early"),
    "a text longer than the file": (b"X\xff\xff\xff\xffa.", "ends early"),
    "bytes longer than memory": (b"\x8e" + b"\xff" * 8 + b".", "ends early"),
    "a frame longer than the file": (b"\x95" + b"\xff" * 8 + b"N.", "ends early"),
    "text that is not UTF-8": (b"X\x01\0\0\0\xff.", "damaged at byte 0"),
    "text without quotes": (b"Sabc\n.", "text without quotes"),
    "a number that is none": (b"Iabc\n.", "damaged at byte 0"),
    "a float that is none": (b"F1.2.3\n.", "damaged at byte 0"),
    "a number of many digits": (b"I" + b"9" * 5000 + b"\n.", "a line of over"),
    "a long of many digits": (b"L" + b"9" * 2_000_000 + b"L\n.", "a line of over"),
    "a name without an end": (b"c" + b"a" * 100_000 + b"\n.", "a line of over"),
    "keywords that are none": (b"cos\nsystem\n)N\x92.", "keywords that are none"),
    "a set of a set": (b"c__builtin__\nset\n(\x8ft\x85\x85R.", "a set in a key"),
    "bytes of text": (b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0rot\x86R.", "_codecs.encode"),
    "bytes of a number": (b"cbuiltins\nbytes\nK\x05\x85R.", "calls builtins.bytes"),
    "a long list of a number": (b"cbuiltins\nlist\nJ\xff\xff\xff\x7f\x85R.", "builtins.list"),
    "an array of nothing": (b"cnumpy._core.multiarray\n_reconstruct\nNNN\x87R.", "_reconstruct"),
}


@pytest.mark.parametrize(("data", "match"), HOSTILE.values(), ids=HOSTILE)
def test_each_lie_is_told(data: bytes, match: str) -> None:
    with pytest.raises((errors.CorruptError, errors.UnsupportedError), match=match) as caught:
        read(data)
    assert str(caught.value).startswith("a.pkl: ")


def quick(data: bytes, match: str) -> None:
    before = time.process_time()
    with pytest.raises(errors.UnsafeError, match=match):
        read(data)
    assert time.process_time() - before < 20


def test_marks_without_end() -> None:
    quick(b"(" * 200_000 + b".", "begun inside one another")


def test_a_stack_without_end() -> None:
    quick(b"N" * 5_000_000 + b".", "on its stack")


def test_functions_that_work_on_the_same_again_and_again() -> None:
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"\x85q\x010"
    call = b"c_codecs\nencode\nh\x01R0"
    quick(b"(" + text + call * 100_000 + b"1N.", "again and again")


def test_keys_chosen_to_hash_alike() -> None:
    prime = 2**61 - 1
    numbers = b"".join(
        b"\x8a\x10" + (n * prime).to_bytes(16, "little") + b"N" for n in range(1, 50_000)
    )
    quick(b"}(" + numbers + b"u.", "chosen to hash alike")


def test_tuples_chosen_to_hash_alike() -> None:
    rows = b""
    for n in range(1 << 14):
        row = b"".join(
            b"J\xff\xff\xff\xff" if n >> i & 1 else b"J\xfe\xff\xff\xff" for i in range(14)
        )
        rows += b"(" + row + b"tN"
    quick(b"}(" + rows + b"u.", "chosen to hash alike")


def test_complex_numbers_and_sets_chosen_to_hash_alike() -> None:
    values = [complex(-1000003 * n, n) for n in range(200)]
    assert len(set(map(hash, values))) == 1
    items = b"".join(
        b"c__builtin__\ncomplex\nG" + struct.pack(">d", v.real) + b"G" + struct.pack(">d", v.imag)
        + b"\x86R"
        for v in values
    )  # fmt: skip
    assert read(b"\x8f(" + items + b"\x90.").value == set(values)
    quick(b"c__builtin__\nset\n](" + items + b"e\x85R.", "chosen to hash alike")


def test_many_keys_that_do_not_hash_alike_are_no_danger() -> None:
    value = {(n, n + 1): 0 for n in range(20_000)} | {2**70 + n: 1 for n in range(20_000)}
    assert read(pickle.dumps(value)).value == value


def test_a_key_that_unfolds_without_end() -> None:
    tuples = b")" + b"2\x86" * 60
    quick(b"}" + tuples + b"Ns.", "64 parts")
    deep = b")" + b"\x85" * 200_000
    quick(b"}" + deep + b"Ns.", "8 levels")
    quick(b"c__builtin__\nfrozenset\n]" + deep + b"a\x85R.", "8 levels")
    quick(b"(" + deep + b"\x91.", "8 levels")


def test_objects_without_end() -> None:
    quick(b"cos\nsystem\nq\x000(" + b"h\0)R" * 250_001 + b"t.", "objects of unknown classes")


def test_deep_nesting_is_no_danger_by_itself() -> None:
    found = read_pickle(b"]" + b"\x85" * 100_000 + b".", "a.pkl", allowed={})
    depth, value = 0, found.value
    while isinstance(value, tuple):
        depth, value = depth + 1, value[0]
    assert depth == 100_000
