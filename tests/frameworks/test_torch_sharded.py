"""PyTorch's distributed checkpoint, through our writer and reader."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.frameworks import ranks
from tests.servers import Server

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, StoreError
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.stores import locate

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Give a folder of what four ranks saved, and what it is."""
    from tests.frameworks import sharded

    folder = tmp_path_factory.mktemp("sharded")
    return folder, ranks.run(sharded.save_all, 4, folder, str(folder))[0]


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    import torch

    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert found.shape == expected.shape, where
        assert torch.equal(_bits(found), _bits(expected)), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected) or set(found) == set(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected), where
        assert len(found) == len(expected), where
        for i, child in enumerate(expected):
            assert_same(found[i], child, f"{where}.{i}")
    else:
        assert type(found) is type(expected), where
        assert found == expected or expected != expected, where


def _bits(tensor: Any) -> Any:
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    return (torch.view_as_real(flat) if flat.is_complex() else flat).view(torch.uint8)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_another_number_of_ranks_loads_the_same_bits(saved: tuple[Path, Any], number: int) -> None:
    from tests.frameworks import sharded

    folder, expected = saved
    found = ranks.run(sharded.load_all, number, folder, str(folder))[0]
    for name in ("fsdp", "tp", "odd"):
        assert_same(found[name], expected[name], name)


def test_one_process_loads_whole_tensors(saved: tuple[Path, Any]) -> None:
    folder, expected = saved
    for name in ("fsdp", "tp", "odd"):
        found = tk.load(folder / name / "step-1", verify=True)
        for key in expected[name]:
            assert_same(found[key], expected[name][key], f"{name}.{key}")
    assert tk.load(folder / "fsdp" / "step-1")["counter"]["count"] == 3


def test_how_tensors_lay_is_noted(saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    found: dict[str, Any] = {}
    for name in ("fsdp", "tp"):
        sharded = read_manifest(locate(folder / name / "step-1")).sharded
        found[name] = sharded["model.down.weight"].sharding
    rows, columns = "Shard(dim=0)", "Shard(dim=1)"
    assert found["fsdp"]["mesh"] == {"axes": ["0"], "shape": [4]}
    assert found["fsdp"]["placements"] == [rows]
    assert found["tp"]["mesh"] == {"axes": ["dp", "tp"], "shape": [2, 2]}
    assert found["tp"]["placements"] == [rows, columns]


def test_cached_plans_and_saves_behind_hold_what_was_there_then(saved: tuple[Path, Any]) -> None:
    from tests.frameworks import sharded

    folder, _ = saved
    ranks.run(sharded.save_behind, 2, folder, str(folder))
    for name, steps in (("cached", (1, 2, 3)), ("behind", (1, 2, 3))):
        for step in steps:
            found = tk.load(folder / name / f"step-{step}", verify=True)
            assert found["step"] == step
            assert found["w"].shape == (6, 2)
            assert bool((found["w"] == step).all())


def test_what_cannot_be_kept_is_refused_by_name(saved: tuple[Path, Any]) -> None:
    folder, expected = saved
    first, second = expected["failures"]
    assert first.startswith("UnsupportedError: a.b: rank "), first
    assert "is a builtins.object, which is not kept" in first
    assert second.startswith("UnsupportedError: a: rank "), second
    assert "layout sparse_coo" in second
    assert not list((folder / "refused").glob("step-*"))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("before", "rank 2 of 3 has not come to the save after"),
        ("plan", "rank 2 of 3 has not said what to write after"),
        ("write", "rank 2 of 3 has not written its part after"),
    ],
)
def test_a_rank_that_hangs_is_named(tmp_path: Path, where: str, told: str) -> None:
    from tests.frameworks import sharded

    group = ranks.Ranks(sharded.hang, 3, tmp_path, str(tmp_path), where)
    for rank in (0, 1):
        group.processes[rank].join(40)
    group.kill(2)
    found = group.results()
    for result in found[:2]:
        message, seconds = result["value"]
        assert told in message
        assert seconds < 9
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000001"]
    assert tk.load(tmp_path / "step-1", verify=True)["w"].shape == (6, 2)


def test_a_rank_may_be_killed_at_any_time(tmp_path: Path) -> None:
    from tests.frameworks.kill_ranks import run

    assert run(4, tmp_path) == []


def test_a_bucket(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.frameworks import sharded

    bucket = s3.bucket()
    url = bucket.url("run")
    found = ranks.run(sharded.save_remote, 2, tmp_path, url, bucket.environment)
    assert found == [(2, True), (2, True)]
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    whole = tk.load(f"{url}/step-00000001", verify=True, framework="numpy")
    assert whole["model"]["w"].sum() == 50 * 30


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """Give a checkpoint that one process has saved."""
    import torch

    import tensorkeep.distributed.torch as tkd

    tkd.save({"a": torch.arange(1000.0), "b": torch.ones(4)}, tmp_path / "step-1", no_dist=True)
    return tmp_path / "step-1"


def test_damage_in_any_part_of_a_piece_that_is_read_is_refused(simple: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

    import tensorkeep.distributed.torch as tkd

    (file,) = (simple.parent / "step-00000001").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    for name, size, bad in (("a", 1000, True), ("b", 4, False)):
        state = {name: torch.zeros(size)}
        if bad:
            with pytest.raises(CorruptError, match="the tensor 'a' is damaged"):
                tkd.load(state, simple, no_dist=True)
        else:
            tkd.load(state, simple, no_dist=True)
            assert state[name].sum() == 4

    # A planner may want less than a whole piece: it is checked all the same.
    class Some(dcp.DefaultLoadPlanner):  # type: ignore[misc]
        def create_local_plan(self) -> Any:
            none, ten = torch.Size([0]), torch.Size([10])
            stored = MetadataIndex("a", none)
            kind = LoadItemType.TENSOR
            return LoadPlan([ReadItem(kind, MetadataIndex("a"), none, stored, none, ten)])

    target = torch.zeros(10)
    with pytest.raises(CorruptError, match="the tensor 'a' is damaged"):
        tkd.load({"a": target}, simple, planner=Some(), no_dist=True)
    tkd.load({"a": target}, simple, planner=Some(), no_dist=True, verify=False)
    assert target.tolist() == list(range(10))
    with pytest.raises(dcp.CheckpointException):
        dcp.load({"a": torch.zeros(1000)}, storage_reader=tkd.Reader(simple), no_dist=True)


def test_what_is_missing_or_taken_is_said(simple: Path, tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    import tensorkeep.distributed.torch as tkd

    with pytest.raises(MissingError, match=r"there is no MANIFEST\.json"):
        tkd.load({"a": torch.zeros(1)}, tmp_path / "step-2", no_dist=True)
    with pytest.raises(ArgumentError, match="that step is saved already"):
        tkd.save({"a": torch.zeros(1)}, simple, no_dist=True)
    tkd.save({"a": torch.zeros(1)}, simple, no_dist=True, overwrite=True)
    assert list(tk.load(simple)) == ["a"]
    with pytest.raises(ArgumentError, match="is called step-N, not 'last'"):
        tkd.save({"a": torch.zeros(1)}, tmp_path / "last", no_dist=True)
    with pytest.raises(ArgumentError, match="it has no address"):
        tkd.save({"a": torch.zeros(1)}, None, no_dist=True)
    with pytest.raises(ArgumentError, match="use_collectives=False leaves every rank"):
        dcp.save({}, storage_writer=tkd.Writer(tmp_path / "step-3"), use_collectives=False)
    with pytest.raises(StoreError, match="rank 0 failed: RuntimeError: Missing key"):
        tkd.load({"other": torch.zeros(1)}, simple, no_dist=True)


class Bytes:
    """Makes planners that turn objects into bytes themselves."""

    @staticmethod
    def planner(**options: Any) -> Any:
        import torch.distributed.checkpoint as dcp

        class Planner(dcp.DefaultSavePlanner):  # type: ignore[misc]
            def transform_object(self, write_item: Any, object: Any) -> Any:
                return super().transform_object(write_item, object)

        return Planner(**options)


def test_planners_of_other_kinds(tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    import tensorkeep.distributed.torch as tkd

    state = {
        "a.b": {"w": torch.ones(2), "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "x": 3,
        "t": torch.zeros(2, 2),
    }
    planners = [
        Bytes.planner(),
        Bytes.planner(flatten_state_dict=False),
        dcp.DefaultSavePlanner(flatten_state_dict=False),
    ]
    for step, planner in enumerate(planners):
        tkd.save(state, tmp_path / f"step-{step}", planner=planner, no_dist=True)
        assert_same(tk.load(tmp_path / f"step-{step}", verify=True), state)
        flat = planner.flatten_state_dict
        target = {
            "a.b": {"w": torch.zeros(2), "groups": [{"lr": 0, "betas": 0}]},
            "x": 0,
            "t": torch.ones(2, 2),
        }
        tkd.load(
            target,
            tmp_path / f"step-{step}",
            # DCP puts values into a copy of the state dict, if it flattens sharded tensors only.
            planner=dcp.DefaultLoadPlanner(flatten_state_dict=flat, flatten_sharded_tensors=flat),
            no_dist=True,
        )
        assert_same(target, state)


def test_checkpoints_of_a_checkpointer_load_too(tmp_path: Path) -> None:
    import torch

    import tensorkeep.distributed.torch as tkd

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with tk.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(4, {"model": model, "optimizer": optimizer, "epoch": 2})
    state: dict[str, Any] = {
        "model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
        "optimizer": {"state": {"0": {"exp_avg": torch.zeros(2, 3)}}},
        "epoch": 0,
    }
    tkd.load(state, tmp_path / "step-4", no_dist=True)
    assert torch.equal(state["model"]["weight"], model.weight)
    moment = optimizer.state[model.weight]["exp_avg"]
    assert torch.equal(state["optimizer"]["state"]["0"]["exp_avg"], moment)
    assert state["epoch"] == 2


def test_tensors_of_the_old_kind(tmp_path: Path) -> None:
    from tests.frameworks import sharded

    found = ranks.run(sharded.save_old, 2, tmp_path, str(tmp_path))
    assert found == [[[row // 2] * 3 for row in range(4)]] * 2
    assert tk.load(tmp_path / "step-1", verify=True)["t"].tolist() == [
        [row // 2] * 6 for row in range(4)
    ]


def test_a_bare_writer_warns_of_ranks_that_hang(tmp_path: Path) -> None:
    from tests.frameworks import sharded

    group = ranks.Ranks(sharded.hang_bare, 3, tmp_path, str(tmp_path))
    until = time.monotonic() + 40
    while not (tmp_path / "told").exists() and time.monotonic() < until:
        time.sleep(0.05)
    group.kill(2)
    ((message,), *_) = [result["value"] for result in group.results()[:1]]
    assert message.endswith("step-1: after 0.5 s rank 2 of 3 still not done with writing")


def test_time_grows_with_the_number_of_names_alone() -> None:
    from tensorkeep.distributed.torch.nesting import nest, paths_of

    paths = {f"model.w{i}": ("model", f"w{i}") for i in range(50_000)}
    began = time.monotonic()
    assert nest(paths_of(paths, list(paths)), {}) == {
        "model": {f"w{i}": "$" for i in range(50_000)}
    }
    assert time.monotonic() - began < 10
