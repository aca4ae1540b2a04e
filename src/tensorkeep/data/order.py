"""Order: which sample stands where in an epoch, as a pure function of the seed and the epoch.

A shuffle here is no list that was shuffled. It is a keyed permutation that gives any position
of it by itself, so that no memory grows with the data and going on in the middle costs nothing.
The numbers 0 to n-1 are laid out as a rectangle of a x b cells that just holds them, and eight
rounds of a Feistel network (Luby and Rackoff, 1988) mix rows and columns; what lands on one of the
few cells beyond n is sent through again (cycle walking; Black and Rogaway, 2002). The rounds'
function is the finalizer of splitmix64 (Steele, Lea and Flood, 2014).

The same seed gives the same order on every machine and with every version of NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 8
_WINDOW = 16  # blocks whose samples are mixed with one another
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Permutation:
    """A permutation of 0 to count-1 that is drawn by a key, any position of it at once.

    Args:
        count: how many numbers are permuted.
        key: any non-negative integers; other keys give other permutations.

    >>> Permutation(10, (7, 0)).at(np.arange(10)).tolist()
    [1, 7, 6, 2, 4, 0, 3, 8, 9, 5]
    """

    count: int
    key: tuple[int, ...]

    @cached_property
    def _sides(self) -> tuple[np.uint64, np.uint64]:
        rows = math.isqrt(max(self.count - 1, 0)) + 1
        return np.uint64(rows), np.uint64(-(-max(self.count, 1) // rows))

    @cached_property
    def _keys(self) -> _Words:
        state = self.count & _WORD
        for part in self.key:  # parts of any size, 64 bits at a time, each with its length
            words = max(1, -(-part.bit_length() // 64))
            for word in (words, *((part >> 64 * i) & _WORD for i in range(words))):
                state = _mix_one(state ^ _mix_one((word + _GOLDEN) & _WORD))
        keys = []
        for _ in range(_ROUNDS):
            state = (state + _GOLDEN) & _WORD
            keys.append(_mix_one(state))
        return np.array(keys, np.uint64)

    def at(self, positions: Positions) -> Positions:
        """Give what stands at some positions, each from 0 up to below the count."""
        return self._walked(self._forward, positions)

    def place(self, numbers: Positions) -> Positions:
        """Give the positions at which some numbers stand: the inverse of `at`."""
        return self._walked(self._backward, numbers)

    def _walked(self, step: Callable[[_Words], _Words], numbers: Positions) -> Positions:
        """Take a step from each number, and further ones from cells that hold none."""
        found = step(numbers.astype(np.uint64))
        beyond = np.flatnonzero(found >= self.count)
        while beyond.size:
            found[beyond] = again = step(found[beyond])
            beyond = beyond[again >= self.count]
        return found.astype(np.int64)

    def _forward(self, cells: _Words) -> _Words:
        rows, columns = self._sides
        row, column = np.divmod(cells, columns)
        for i in range(0, _ROUNDS, 2):
            row = (row + _mix(column ^ self._keys[i]) % rows) % rows
            column = (column + _mix(row ^ self._keys[i + 1]) % columns) % columns
        cells = row * columns
        cells += column
        return cells

    def _backward(self, cells: _Words) -> _Words:
        rows, columns = self._sides
        row, column = np.divmod(cells, columns)
        for i in range(_ROUNDS - 2, -1, -2):
            column = (column + columns - _mix(row ^ self._keys[i + 1]) % columns) % columns
            row = (row + rows - _mix(column ^ self._keys[i]) % rows) % rows
        cells = row * columns
        cells += column
        return cells


@dataclass(frozen=True)
class Order:
    """The order of the samples of one epoch.

    Args:
        count: how many samples there are.
        seed: what the shuffle is drawn by.
        epoch: which epoch; each has an order of its own.
        block: 0 to keep the samples in their order, 1 to shuffle them all, and more to shuffle
            blocks of so many neighbours, and the samples inside windows of 16 such blocks: for
            data that is read a block at a time.

    >>> Order(6, seed=0, epoch=0, block=0).at(np.arange(2, 5)).tolist()
    [2, 3, 4]
    """

    count: int
    seed: int
    epoch: int
    block: int = 1

    def at(self, positions: Positions) -> Positions:
        """Give the numbers of the samples that stand at some positions of the epoch."""
        if self.block == 0 or not positions.size:
            return positions
        if self.block == 1:
            return self._whole.at(positions)
        return self._in_blocks(positions)

    @cached_property
    def _whole(self) -> Permutation:
        return Permutation(self.count, (self.seed, self.epoch))

    @cached_property
    def _blocks(self) -> Permutation:
        return Permutation(-(-self.count // self.block), (self.seed, self.epoch, 0))

    @cached_property
    def _short(self) -> tuple[int, int]:
        """Where the last block, which may be short, stands among the blocks; what it lacks."""
        last = self._blocks.count - 1
        lacking = self._blocks.count * self.block - self.count
        return int(self._blocks.place(np.array([last]))[0]), lacking

    def _in_blocks(self, positions: Positions) -> Positions:
        short, lacking = self._short
        window = self.block * _WINDOW
        # Windows as if all blocks were whole: those from the short one on begin earlier.
        shift = np.where(positions >= (short + 1) * self.block - lacking, lacking, 0)
        numbers = (positions + shift) // window
        mixed = np.empty_like(positions)
        for number in np.unique(numbers):
            inside = numbers == number
            begin, end = self._bounds(int(number), window)
            permutation = Permutation(end - begin, (self.seed, self.epoch, int(number) + 1))
            mixed[inside] = begin + permutation.at(positions[inside] - begin)
        places = mixed + np.where(mixed >= (short + 1) * self.block - lacking, lacking, 0)
        blocks, offsets = np.divmod(places, self.block)
        found = self._blocks.at(blocks) * self.block
        found += offsets
        return found

    def _bounds(self, number: int, window: int) -> tuple[int, int]:
        """Give the positions between which a window lies."""
        short, lacking = self._short

        def bound(whole: int) -> int:
            return min(whole - (lacking if whole > short * self.block else 0), self.count)

        return bound(number * window), bound((number + 1) * window)


def _mix(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mix_one(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)
