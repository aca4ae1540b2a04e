"""The blocks of docs/distributed.md run, and other tools load what `consolidate` makes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.frameworks import ranks
from tests.servers import Bucket, Server
from tests.test_docs import ROOT, blocks

from tensorkeep.cli import main

pytestmark = pytest.mark.frameworks
PAGE = ROOT / "docs" / "distributed.md"


def test_blocks_run(s3: Server, tmp_path: Path) -> None:
    s3.make(s3.port, "bucket")
    environment = Bucket("s3", "bucket", s3.port).environment
    texts = [block.text for block in blocks(PAGE) if block.marks == "frameworks"]
    assert len(texts) == 4
    ranks.run(run_page, 1, tmp_path, str(tmp_path), texts, environment)


def run_page(
    rank: int, number: int, folder: str, texts: list[str], environment: dict[str, str]
) -> None:
    import torch
    import torch_checkpointing as engine

    class Training(engine.CheckpointBase):  # type: ignore[misc]
        def get_items(self) -> dict[str, Any]:
            return {"model": engine.CheckpointItem({"w": torch.ones(3)})}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise NotImplementedError

    os.environ.update(environment)
    os.chdir(folder)
    weight = torch.arange(64.0).reshape(32, 2)
    state = {"model": {"layers.0.weight": weight}, "step": 3}
    page: dict[str, Any] = {"state_dict": state, "checkpoint": Training()}
    for text in texts:
        if "run/step-1200" in text and "save(" in text:  # each block is another way
            shutil.rmtree("run", ignore_errors=True)
        exec(compile(text, PAGE.name, "exec"), page)
        if "saving" in page:
            page.pop("saving").result()
    page["saver"].close()
    assert page["state"]["step"] == 3
    assert page["rows"].tolist() == weight[:16].tolist()


def test_a_model_that_was_sharded_is_loaded_by_its_own_library(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    transformers: Any = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 12, "vocab_size": 15}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    model.config.save_pretrained(tmp_path / "whole")
    expected = model.state_dict()
    torch.save(expected, tmp_path / "weights.pt")
    ranks.run(save_rows, 2, tmp_path, str(tmp_path))
    with pytest.raises(SystemExit, match="0"):
        main(["consolidate", str(tmp_path / "run" / "step-5"), str(tmp_path / "whole")])
    found = load_file(tmp_path / "whole" / "model.safetensors")
    loaded = type(model).from_pretrained(tmp_path / "whole").state_dict()
    for weights in (found, loaded):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def save_rows(rank: int, number: int, folder: str) -> None:
    """Save tensors by rows, as FSDP2 shards them."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    import tensorkeep.distributed.torch as tkd

    mesh = init_device_mesh("cpu", (number,))
    weights = torch.load(f"{folder}/weights.pt")
    rows = {name: distribute_tensor(w, mesh, [Shard(0)]) for name, w in weights.items()}
    tkd.save({"model": rows, "step": 5}, f"{folder}/run/step-5", timeout=30)
