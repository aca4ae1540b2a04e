from __future__ import annotations

import math
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep
from tensorkeep import dtypes
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.listing import Checkpoint
from tensorkeep.errors import CorruptError, StoreError
from tensorkeep.notebook import checkpoint_table, state_table
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

_TAGS = {
    "div", "b", "bdi", "br", "span", "table", "thead", "tbody", "tr", "th", "td",
    "svg", "title", "path", "polyline",
}  # fmt: skip
_KEYS = {
    "style", "scope", "colspan", "width", "height", "viewbox", "preserveaspectratio", "role",
    "aria-label", "fill", "d", "points", "stroke", "vector-effect",
}  # fmt: skip
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</td></table><script>alert(1)</script>",
    '"onload="alert(1)',
    "&lt;b&gt;",
    "\x1b[31mred",
    "a\u202eb",
    "javascript:alert(1)",
    "__proto__",
    "n" * 5000,
]


class Sound(HTMLParser):
    """Takes the table apart, and refuses what has no business in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.drawings = 0
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _TAGS
        assert {key for key, _ in attrs} <= _KEYS
        self.drawings += tag == "svg"
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(page: str) -> str:
    return " ".join(Sound(page).text)


def test_a_state_is_a_table_of_its_tensors() -> None:
    array = np.linspace(-1, 1, 6000, dtype=np.float32).reshape(2, 3000)
    state = State(
        {"layer.w": Tensor.of(array), "step": Tensor.of(np.int64(7))},
        metadata={"epoch": 3, "note": "x"},
        format="safetensors",
        refused=("a <function> was left out",),
    )
    page = state._repr_html_()
    found = Sound(page)
    assert found.drawings == 2
    text = " ".join(found.text)
    for part in ("layer.w", "float32", "2 \xd7 3000", "24 kB", "scalar", "8 B"):
        assert part in text
    assert "2 tensors, 24 kB, safetensors" in re.sub(r"\s+", " ", text).replace(" ,", ",")
    assert re.search(r"metadata: +epoch +, +note", text)
    assert "a <function> was left out" in text
    assert "-1 to 1, mean" in text
    assert "currentColor" in page


def test_names_stay_text() -> None:
    tensors = {name: Tensor.of(np.zeros(2)) for name in HOSTILE if len(name) < 4000}
    long = {"n" * 4000: Tensor.of(np.zeros(2))}
    state = State(tensors | long, metadata=dict.fromkeys(HOSTILE, 1), format="<b>")
    page = state._repr_html_()
    text = text_of(page)
    assert "<img src=x onerror=alert(1)>" in text
    assert "&lt;b&gt;" in text
    assert r"\x1b[31mred" in text
    assert r"a\u202eb" in text
    assert "\u202e" not in page
    assert "n" * 200 not in page


def test_what_is_damaged_shows_its_problem_and_the_others_are_there() -> None:
    class Broken(Source):
        def _read(self, start: int, stop: int) -> memoryview:
            raise CorruptError("its <chunk> is damaged", where="b.bin")

    class Faulty(Source):
        def _read(self, start: int, stop: int) -> memoryview:
            raise ZeroDivisionError("a fault")

    tensors = {
        "bad": Tensor(dtypes.FLOAT32, (4,), Broken(16, "b.bin")),
        "worse": Tensor(dtypes.FLOAT32, (4,), Faulty(16, "b.bin")),
        "good": Tensor.of(np.arange(4.0)),
    }
    found = Sound(State(tensors)._repr_html_())
    assert found.drawings == 1
    assert "b.bin: its <chunk> is damaged" in " ".join(found.text)
    assert "a fault" in " ".join(found.text)


def test_a_closed_state_says_so(tmp_path: Path) -> None:
    tensorkeep.save({"w": np.zeros(100_000)}, tmp_path / "m.safetensors")
    state = tensorkeep.open(tmp_path / "m.safetensors")
    assert Sound(state._repr_html_()).drawings == 1
    state.close()
    assert "closed" in text_of(state._repr_html_())


def test_nothing_is_read_of_what_is_remote() -> None:
    class Far(Source):
        remote = True

        def _read(self, start: int, stop: int) -> memoryview:
            raise AssertionError("it was read")

    found = Sound(State({"w": Tensor(dtypes.FLOAT32, (4,), Far(16, "far"))})._repr_html_())
    assert found.drawings == 0
    assert "it was read" not in found.text


def test_a_large_state_is_shown_in_part_and_at_once() -> None:
    tensor = Tensor.of(np.ones(3, np.float32))
    state = State(
        {f"t{i}": tensor for i in range(100_000)}, metadata={str(i): 1 for i in range(99)}
    )
    start = time.process_time()
    page = state._repr_html_()
    assert time.process_time() - start < 10
    found = Sound(page)
    assert found.drawings == 50
    assert "and 99,800 more" in found.text
    assert "and 49 more" in " ".join(found.text)
    assert len(page) < 200_000


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.array([math.nan, math.inf]),
        np.array(["a", ""], object),
        np.array([True, False]),
        np.array([1e308, -1e308]),
        np.array([1j, math.nan], np.complex64),
        np.zeros((1,) * 40),
    ],
)
def test_any_values_can_be_drawn(array: Any) -> None:
    found = Sound(State({"t": Tensor.of(array)})._repr_html_())
    assert found.drawings == (1 if array.size and np.size(array) != 2 else found.drawings)
    assert "Error" not in " ".join(found.text)


def test_broken_values_are_counted() -> None:
    array = np.array([1, math.nan, math.inf, -math.inf])
    assert "1 NaN, 2 inf" in text_of(State({"t": Tensor.of(array)})._repr_html_())


def test_an_empty_state() -> None:
    page = State({})._repr_html_()
    assert "0 tensors" in text_of(page)
    assert "<table" not in page


def test_a_checkpointer_is_a_table_of_its_checkpoints(tmp_path: Path) -> None:
    with Checkpointer(tmp_path / "run") as ck:
        for step in range(1, 5):
            metrics = {"loss": 1 / step, "<acc>": math.nan}
            ck.save(step, {"w": np.full(1000, step)}, metrics=metrics)
        shutil.rmtree(ck.checkpoints()[1].path)
        for file in Path(ck.checkpoints()[0].path).iterdir():
            file.write_text("{")
        found = Sound(ck._repr_html_())
    text = " ".join(found.text)
    assert found.drawings == 1
    assert "3 checkpoints" in text
    for part in ("loss", "<acc>", "0.25", "0.3333", "damaged", "ok"):
        assert part in text
    assert "0.5" not in found.text
    assert "3 checkpoints" in text_of(ck._repr_html_())


def test_what_a_manifest_says_stays_text() -> None:
    rows = [
        Checkpoint(step=1, path="p", time=1e300, metrics=dict.fromkeys(HOSTILE, "<script>")),
        Checkpoint(step=2, path="p", time=math.inf, problem="<script>it is cut short"),
        Checkpoint(step=10**30, path="p", time=-1.0, metrics={"<x>": 1e308}),
        Checkpoint(step=10**30 + 1, path="p", metrics={"<x>": -1e308}),
        Checkpoint(step=10**30 + 2, path="p", metrics={"<x>": math.inf}),
    ]
    page = checkpoint_table("<b>run", lambda: rows)
    text = text_of(page)
    assert "<b>run" in text
    assert "<script>it is cut short" in text
    assert "metrics that are not shown: 2" in text
    assert "inf" not in page.replace("infinite", "").split("points=")[-1].split(">")[0]


def test_many_checkpoints_and_none() -> None:
    rows = [Checkpoint(step=i, path="p", metrics={"loss": float(i)}) for i in range(5000)]
    page = checkpoint_table("run", lambda: rows)
    assert "and 4,800 more" in text_of(page)
    assert "4,999" in text_of(page)
    assert len(page) < 200_000
    assert "0 checkpoints" in text_of(checkpoint_table("run", list))


def test_a_run_that_cannot_be_listed_says_why() -> None:
    def failing() -> list[Checkpoint]:
        raise StoreError("the network is <away>", where="s3://run")

    assert "s3://run: the network is <away>" in text_of(checkpoint_table("run", failing))


def test_tables_of_any_mapping() -> None:
    assert "1 tensor" in text_of(state_table({"w": Tensor.of(np.zeros(1))}, {}))
