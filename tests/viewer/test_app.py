from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.viewer.asking import Client
from tests.viewer.conftest import Serving

import tensorkeep as tk
from tensorkeep.api import ProgressReport
from tensorkeep.errors import ArgumentError, MissingError, StoreError
from tensorkeep.viewer import listing
from tensorkeep.viewer.answering import Answering
from tensorkeep.viewer.encoding import to_json
from tensorkeep.viewer.measured import Measured
from tensorkeep.viewer.parameters import Parameters
from tensorkeep.viewer.server import Server, serve


def nesting() -> dict[str, object]:
    weights = np.arange(12, dtype="float32").reshape(3, 4)
    return {
        "encoder": {"w": weights, "b": np.zeros(3)},
        "kernels": np.ones((2, 3, 5, 5), "float32"),
        "step": 7,
        "note": "<img onerror>",
    }


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Give a client of a server that shows two files and a run."""
    folder = tmp_path_factory.mktemp("files")
    tk.save(nesting(), folder / "a.safetensors", metadata={"by": "us"})
    tk.save({**nesting(), "step": 8}, folder / "b.npz")
    with tk.Checkpointer(folder / "run", rng=False) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.full((2, 3), step, "float32")})
    targets = [folder / "a.safetensors", folder / "b.npz", folder / "run", folder / "none.npz"]
    with serve(targets) as server:
        yield Client(server)


def test_the_page(client: Client) -> None:
    reply = client.get(client.base)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert b'<div id="page">' in reply.body
    script = client.get(f"{client.base}page.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


def test_things(client: Client) -> None:
    found = client.api("things").json
    assert found["version"] == tk.__version__
    kinds = [(thing["id"], thing["name"], thing["kind"]) for thing in found["things"]]
    assert kinds == [
        ("0", "a.safetensors", "state"),
        ("1", "b.npz", "state"),
        ("2", "run", "run"),
        ("3", "none.npz", ""),
    ]
    assert client.api("things/2").json["steps"] == 2
    assert client.api("things/2@1").json["tensors"] == 1
    assert client.api("things/2%401").json == client.api("things/2@1").json


def test_a_listing_and_what_is_beside(client: Client) -> None:
    found = client.api("things/0/tensors").json
    assert found["names"] == ["encoder.w", "encoder.b", "kernels"]
    assert found["dtypes"] == ["float32", "float64", "float32"]
    assert found["shapes"] == [[3, 4], [3], [2, 3, 5, 5]]
    assert found["nbytes"] == [48, 24, 600]
    assert found["left_out"] == 0
    beside = client.api("things/0/metadata").json
    assert beside["metadata"]["by"] == "us"
    assert beside["values"] == {"step": 7, "note": "<img onerror>"}
    assert beside["refused"] == []


def test_values(client: Client) -> None:
    head, floats = client.api("things/0/tensors/0/window").binary
    assert head["shape"] == [3, 4]
    assert floats.tolist() == list(range(12))
    part = "things/0/tensors/0/window?axes=1,0&at=0,0&rows=1:3&cols=0:2&most=16"
    head, floats = client.api(part).binary
    assert (head["rows"], head["cols"]) == ([1, 3], [0, 2])
    assert floats.tolist() == [1, 5, 2, 6]
    exact = client.api("things/0/tensors/0/values?rows=0:1&cols=0:2").json
    assert exact["values"] == [["0.0", "1.0"]]
    head, floats = client.api("things/0/tensors/2/tiles?layout=oihw&count=1").binary
    assert (head["count"], head["rows"], head["channels"]) == (1, 5, 3)
    assert len(floats) == 75


def test_statistics(client: Client) -> None:
    first, last = client.api("things/0/statistics?of=0,2").json
    assert (first["index"], first["min"], first["max"], first["exact"]) == (0, 0, 11, True)
    assert (last["index"], last["mean"]) == (2, 1)
    one = client.job("things/0/exact?of=1")
    assert (one["result"]["zeros"], one["result"]["exact"]) == (3, True)
    every = client.job("things/0/exact")
    assert (every["finished"], every["result"], every["problem"]) == (True, None, "")
    assert every["done"] == every["total"] == 672


def test_two_of_them(client: Client) -> None:
    found = client.job("diff?a=0&b=1")["result"]
    assert not found["equal"]
    assert [row["equal"] for row in found["tensors"]] == [True] * 3
    assert {"place": "step", "a": "7", "b": "8"} in found["values"]
    both = client.api("diff/histograms?a=0&b=1&ia=0&ib=0").json
    assert sum(both["a"]) == sum(both["b"]) == 12


def test_a_run(client: Client) -> None:
    assert [step["step"] for step in client.api("runs/2").json["steps"]] == [1, 2]
    verified = client.job("runs/2/verify?step=1")["result"]
    assert (verified["step"], verified["sound"]) == (1, True)
    course = client.job("runs/2/course?exact=0")["result"]
    assert (course["steps"], course["names"]) == ([1, 2], ["w"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", 404),
        ("thing", 404),
        ("things/", 404),
        ("things/9", 404),
        ("things/0/", 404),
        ("things/0/tensors/9", 404),
        ("things/0/tensors/9/window", 404),
        ("things/0/tensors/-1/window", 404),
        ("things/0/tensors/0/window/", 404),
        ("things/0/tensors/99999999999999999999/window", 404),
        ("things/3/tensors", 404),
        ("things/2/tensors", 400),
        ("things/0/graph", 400),
        ("things/0/graph/inferred?x=1", 400),
        ("things/0/statistics", 400),
        ("things/0/statistics?of=9", 404),
        ("things/0/statistics?of=", 200),
        ("things/0/statistics?of=" + "0," * 64 + "0", 400),
        ("things/0/statistics?of=0,,1", 400),
        ("things/0/statistics?of=-1", 400),
        ("things/0/statistics?of=1e3", 400),
        ("things/0/statistics?of=0&of=1", 400),
        ("things/0/statistics?of=0&more=1", 400),
        ("things/0/statistics?of=%ff", 400),
        ("things/0/statistics?of=%D9%A1", 400),
        ("things/0/exact?of=9", 404),
        ("things/0/exact?of=0,1", 400),
        ("things?x=1", 400),
        ("things?", 200),
        ("things?&&&", 400),
        ("things/0/tensors/0/window?axes=0,7", 400),
        ("things/0/tensors/0/window?rows=2", 400),
        ("things/0/tensors/0/window?rows=:", 400),
        ("things/0/tensors/0/window?rows=0:99999999999999999999999999", 400),
        ("things/0/tensors/0/window?rows=0:" + "9" * 5000, 400),
        ("things/0/tensors/0/window?most=0", 400),
        ("things/0/tensors/0/window?most=1000000000", 400),
        ("things/0/tensors/0/window?at=0,0,0,0,0,0", 400),
        ("things/0/tensors/0/tiles?layout=nchw", 400),
        ("things/0/tensors/2/tiles?count=1000000", 400),
        ("diff", 404),
        ("diff?a=0", 404),
        ("diff?a=0&b=7", 404),
        ("diff?a=0&b=2", 400),
        ("diff/histograms?a=0&b=1&ia=0", 400),
        ("diff/histograms?a=0&b=1&ia=0&ib=9", 404),
        ("runs/0", 400),
        ("runs/9", 404),
        ("runs/2/verify", 400),
        ("runs/2/verify?step=x", 400),
        ("runs/2/course?exact=2", 400),
    ],
)
def test_what_makes_no_sense(client: Client, path: str, status: int) -> None:
    reply = client.api(path)
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    if status != 200:
        assert set(reply.json) == {"problem", "cure"}
        assert reply.json["problem"]
        assert b"Traceback" not in reply.body


def test_a_mistake_of_ours_is_no_traceback(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: tk.State) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(listing, "tensors", fail)
    reply = client.api("things/0/tensors")
    assert reply.status == 500
    assert reply.json["problem"] == "internal error: ZeroDivisionError"
    assert "secret detail" in caplog.text


def test_a_number_that_is_not_finite_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"min": math.nan})


def test_hostile_metadata_is_cut_and_told() -> None:
    deep: object = "end"
    for _ in range(500):
        deep = [deep]
    metadata: dict[str, object] = {
        "__proto__": {"polluted": True},
        "nan": math.nan,
        "seed": 2**63,
        "huge": 7**9000,
        "text": "x" * 50_000,
        "list": list(range(20_000)),
        "dict": {str(n): n for n in range(20_000)},
        "deep": deep,
        "surrogate": "\udc80",
        "k" * 100_000: 1,
    }
    state = tk.State({}, metadata=metadata, refused=("r" * 100_000,))  # type: ignore[arg-type]
    found = json.loads(to_json(listing.metadata(state)))
    kept = found["metadata"]
    assert kept["__proto__"] == {"polluted": True}
    assert (kept["nan"], kept["seed"]) == ("nan", str(2**63))
    assert kept["text"].endswith("x… (50,000 letters)")
    assert kept["list"][-1] == "… 10,000 more"
    assert kept["dict"]["…"] == "10,000 more"
    assert "nested deeper" in str(kept["deep"])
    assert kept["surrogate"] == "\udc80"
    assert found["refused"][0].endswith("(100,000 letters)")


def test_all_kinds_of_values_are_told(tmp_path: Path) -> None:
    nesting = {"raw": b"\x00\xff", "z": 1 + 2j, "pair": (1, None, True), "lr": math.inf}
    tk.save({**nesting, "huge": 2**200, "w": np.zeros(2)}, tmp_path / "a.safetensors")
    with tk.open(tmp_path / "a.safetensors") as state:
        values = json.loads(to_json(listing.metadata(state)))["values"]
    assert values == {
        "raw": "00ff",
        "z": "(1+2j)",
        "pair.0": 1,
        "pair.1": None,
        "pair.2": True,
        "lr": "inf",
        "huge": str(2**200),
    }


def test_metadata_has_a_size_whatever_is_in_it() -> None:
    metadata = {f"key {n}": [{"text": "é" * 1000}] * 50 for n in range(5000)}
    state = tk.State({}, metadata=metadata)  # type: ignore[arg-type]
    start = time.process_time()
    answer = to_json(listing.metadata(state))
    assert len(answer) < 30_000_000
    assert time.process_time() - start < 10
    assert json.loads(answer)["metadata"]["…"].endswith("more")


def test_a_listing_of_very_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    one = tk.Tensor.of(np.zeros((2, 3)))
    state = tk.State({f"model.layers.{n}.weight": one for n in range(100_000)})
    start = time.process_time()
    answer = to_json(listing.tensors(state))
    assert time.process_time() - start < 10  # 0.2 s where nothing else runs
    assert len(json.loads(answer)["names"]) == 100_000
    monkeypatch.setattr(listing, "MOST_ROWS", 1000)
    assert listing.tensors(state).left_out == 99_000
    long = tk.State({f"{n:06}{'x' * 4000}": one for n in range(30_000)})
    found = listing.tensors(long)
    assert len(found.names) + found.left_out == 30_000
    monkeypatch.setattr(listing, "MOST_ROWS", 200_000)
    found = listing.tensors(long)
    assert 0 < found.left_out < 30_000
    assert len(to_json(found)) < 70_000_000


def test_remarks_go_by_their_place() -> None:
    one = tk.Tensor.of(np.zeros(2))
    remarks = {"b": "chunked", "c": "r" * 10_000}
    found = listing.tensors(tk.State({"a": one, "b": one, "c": one}, remarks=remarks))
    assert found.remarks["1"] == "chunked"
    assert len(found.remarks["2"]) == 501


def test_parameters_are_taken_once_and_all() -> None:
    asked = Parameters("a=1&b=2:3&c=")
    assert asked.integer("a") == 1
    assert asked.range("b") == (2, 3)
    with pytest.raises(ArgumentError, match="not known"):
        asked.finish()
    assert asked.integers("c") == ()
    asked.finish()
    assert asked.integer("a", 5) == 5
    with pytest.raises(ArgumentError, match="name=value"):
        Parameters("&".join(f"p{n}=1" for n in range(100)))


def test_nothing_is_left_running() -> None:
    before = set(threading.enumerate())
    with serve([{"w": np.zeros(3)}]) as server:
        client = Client(server)
        assert client.job("things/0/exact")["finished"]
        assert server.running
    assert not server.running
    assert set(threading.enumerate()) <= before
    server.close()
    with pytest.raises(ConnectionRefusedError):
        client.api("things")


def test_closing_stops_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    started, stopped = threading.Event(), threading.Event()

    def endless(self: Measured, state: tk.State, index: int, report: ProgressReport) -> None:
        try:
            while True:
                report(1, 2)
                started.set()
                time.sleep(0.001)
        finally:
            stopped.set()

    def slow(self: Measured, state: tk.State, index: int) -> None:
        started.wait(10)
        time.sleep(0.1)
        raise MissingError("too late")

    monkeypatch.setattr(Measured, "exact", endless)
    monkeypatch.setattr(Measured, "sampled", slow)
    before = set(threading.enumerate())
    with serve([{"w": np.zeros(3)}]) as server:
        client = Client(server)
        asking = threading.Thread(target=lambda: client.api("things/0/statistics?of=0"))
        asking.start()
        assert not client.api("things/0/exact").json["finished"]
        assert started.wait(10)
    assert stopped.wait(0)
    asking.join()
    assert set(threading.enumerate()) <= before


def test_a_port_that_is_taken(client: Client) -> None:
    with pytest.raises(ArgumentError, match=f"port {client.server.port} cannot be had"):
        serve([{"w": np.zeros(3)}], port=client.server.port)
    with pytest.raises(ArgumentError, match="a port cannot be 70000"):
        serve([{"w": np.zeros(3)}], port=70_000)


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "_run", lambda self: None)
    with pytest.raises(StoreError, match="did not start"):
        serve([{"w": np.zeros(3)}])


def test_a_page_that_was_not_built(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="the page was not built"):
        serve([{"w": np.zeros(3)}], page=tmp_path)


def test_a_page_of_ones_own(tmp_path: Path, serving: Serving) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>")
    for name in ("extra.js", "layout-worker.min.js", ".hidden.js"):
        (tmp_path / name).write_text("1")
    (tmp_path / "secret.py").write_text("1")
    (tmp_path / "folder.js").mkdir()
    client = serving({"w": np.zeros(3)}, page=tmp_path)
    assert client.get(client.base).body == b"<p>here</p>"
    for name in ("extra.js", "layout-worker.min.js"):
        assert client.get(client.base + name).body == b"1"
    for name in ("secret.py", "folder.js", "page.js", ".hidden.js"):
        assert client.get(client.base + name).status == 404
    (tmp_path / "extra.js").unlink()
    assert client.get(f"{client.base}extra.js").json["problem"] == "No such file or directory"


def test_answers_without_a_server() -> None:
    answering = Answering([{"w": np.zeros(3)}])
    assert answering.answer("things/0/window".replace("window", "tensors")).media.endswith("json")
    assert answering.answer("things/0/tensors/0/window").media == "application/octet-stream"
    with pytest.raises(MissingError):
        answering.answer("nothing")
    answering.close()


def test_samples_that_take_too_long_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorkeep.viewer.answering._PATIENCE", -1.0)
    answering = Answering([{"w": np.ones(1 << 19)}])
    assert json.loads(answering.answer("things/0/statistics?of=0").body)[0]["measured"] == 1024
    answering.close()
