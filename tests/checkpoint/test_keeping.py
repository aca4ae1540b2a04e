"""Which checkpoints the rules choose, and how rules are spelt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.checkpoint.keeping import Best, Keep, keep, parse_keep
from tensorkeep.errors import ArgumentError


@dataclass(frozen=True)
class Row:
    """What a rule looks at."""

    step: int
    time: float = 0.0
    metrics: dict[str, float | str] = field(default_factory=dict)


def rows(*steps: int, **metrics: list[Any]) -> list[Row]:
    found = {name: dict(zip(steps, values, strict=True)) for name, values in metrics.items()}
    return [
        Row(step, float(step), {name: values[step] for name, values in found.items()})
        for step in steps
    ]


@pytest.mark.parametrize("there", range(6))
@pytest.mark.parametrize("last", range(1, 8))
def test_the_last_ones_are_kept_however_few_there_are(last: int, there: int) -> None:
    assert keep(last=last).chosen(rows(*range(there))) == set(range(there)[-last:])


def test_every_multiple_is_kept() -> None:
    assert keep(every=10).chosen(rows(0, 5, 10, 15, 20)) == {0, 10, 20}


def test_the_younger_ones_are_kept() -> None:
    there = rows(1, 2, 3, 1000)
    assert keep(younger=10).chosen(there, now=12.0) == {3, 1000}  # one is from the future


def test_the_best_are_kept_and_of_equal_ones_the_newer() -> None:
    there = rows(1, 2, 3, 4, loss=[2, 1, 1, 3])
    assert keep(best="loss").chosen(there) == {3}
    assert keep(best="loss:min:2").chosen(there) == {2, 3}
    assert keep(best="loss:max").chosen(there) == {4}
    assert keep(best="nothing").chosen(there) == set()


def test_what_is_no_finite_number_is_never_the_best() -> None:
    odd = rows(1, 2, 3, 4, 5, loss=["nan", float("nan"), float("inf"), 10**400, "best"])
    assert keep(best="loss").chosen(odd) == {4}
    assert keep(best="loss:max").chosen(odd) == {4}
    mixed = rows(1, 2, loss=[10**400, -(10**400)])
    assert keep(best="loss").chosen([*mixed, Row(3, 0.0, {"loss": 0.5})]) == {2}


@given(
    st.lists(st.integers(0, 50), unique=True).map(sorted),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_rules_are_a_union(steps: list[int], last: int, every: int, count: int) -> None:
    there = [Row(step, 0.0, {"loss": step * 7 % 11}) for step in steps]
    rules = keep(last=last), keep(every=every), keep(best=f"loss:min:{count}")
    expected = set().union(*(rule.chosen(there) for rule in rules))
    assert (rules[0] | rules[1] | rules[2]).chosen(there) == expected
    assert keep(last, f"loss:min:{count}", every).chosen(there) == expected


def test_joining_is_the_same_in_any_order() -> None:
    one, other = keep(last=3, best="a", every=4), keep(last=2, best=["a", "b"], younger="1h")
    assert (one | other).last == 3
    assert (one | other).best == (Best("a"), Best("b"))
    assert (one | other).younger == 3600
    assert one | one == one


def test_rules_as_text() -> None:
    text = "last=3, best=loss,best=accuracy:max:2,every=1000,younger=2d"
    best = Best("loss"), Best("accuracy", True, 2)
    assert parse_keep(text) == Keep(3, best, (1000,), 172800.0)
    assert parse_keep("younger=1.5h") == keep(younger="90m") == keep(younger=5400)
    assert parse_keep("best=val/top-1 %") == keep(best="val/top-1 %")


@pytest.mark.parametrize(
    "text",
    [
        *("", "last", "last=", "last=-1", "last=1.5", "last=0", "last=1,last=2", ",", "=3"),
        *("best=", "best=:max", "best=a:most", "best=a:max:0", "every=x", "older=3"),
        *("younger=2y", "younger=-1", f"last={'9' * 5000}"),
    ],
)
def test_texts_that_are_no_rules(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_keep(text)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"last": -1}, {"last": True}, {"last": 1.0}, {"every": -5}, {"best": [3]}),
        *({"younger": -1}, {"younger": None}, {"younger": float("nan")}, {"best": ["a", ""]}),
    ],
)
def test_rules_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        keep(**options)
