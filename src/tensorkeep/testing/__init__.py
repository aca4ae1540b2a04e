"""Checks that every format and every store has to pass, for us and for authors of plug-ins.

    from tensorkeep import testing

    def test_my_format():
        testing.check_format(MY_FORMAT)

    def test_my_store(tmp_path):
        testing.check_store(lambda: MyStore(tempfile.mkdtemp(dir=tmp_path)))

A failed check raises AssertionError and says what differed. Only `states`, `arrays` and
`store_machine` need hypothesis.
"""

from tensorkeep.testing.equality import assert_equal_states
from tensorkeep.testing.faults import CountingStore, FailingStore, check_failing_saves
from tensorkeep.testing.formats import (
    check_acceptance,
    check_bit_flips,
    check_determinism,
    check_format,
    check_laziness,
    check_round_trip,
    check_slices,
    check_truncations,
    encoded,
    fitting,
    needed,
    placed,
)
from tensorkeep.testing.samples import SHAPES, arrays, sample, samples, states
from tensorkeep.testing.stores import STORE_CHECKS, check_store, store_machine

__all__ = [
    "SHAPES",
    "STORE_CHECKS",
    "CountingStore",
    "FailingStore",
    "arrays",
    "assert_equal_states",
    "check_acceptance",
    "check_bit_flips",
    "check_determinism",
    "check_failing_saves",
    "check_format",
    "check_laziness",
    "check_round_trip",
    "check_slices",
    "check_store",
    "check_truncations",
    "encoded",
    "fitting",
    "needed",
    "placed",
    "sample",
    "samples",
    "states",
    "store_machine",
]
