"""Hugging Face's Trainer goes on from a Checkpointer; from_pretrained reads its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError
from tensorkeep.integrations import transformers as integration

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("accelerate", reason="Accelerate (accelerate) is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")


def tiny(transformers: Any) -> Any:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 200, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config)


def make(transformers: Any, torch: Any, folder: Path, **options: Any) -> Any:
    transformers.set_seed(0)
    model = tiny(transformers)
    texts = torch.randint(0, 200, (24, 8), generator=torch.Generator().manual_seed(1))
    data = options.pop("eval_dataset", None)
    usual = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": 4, "num_train_epochs": 3, "learning_rate": 1e-2}
    given: dict[str, Any] = {**usual, **sizes, "warmup_steps": 3, "logging_steps": 2, **options}
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(output_dir=str(folder), **given),
        train_dataset=[{"input_ids": text, "labels": text} for text in texts],
        eval_dataset=data,
    )


def stopper(transformers: Any, step: int) -> Any:
    base: Any = transformers.TrainerCallback

    class Stop(base):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == step:
                raise InterruptedError

    return Stop()


def weights(trainer: Any) -> Any:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(torch: Any, left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


EVERY = {"every_steps": 1}
OPTIONS: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({}, EVERY, 6),  # the end of an epoch
    ({}, EVERY, 8),
    ({}, {**EVERY, "background": True, "fenced": True}, 8),
    ({"gradient_accumulation_steps": 2}, EVERY, 4),
    ({"save_strategy": "steps", "save_steps": 3, "save_only_model": True}, {}, 8),
]


@pytest.mark.parametrize(("trained", "kept", "stop"), OPTIONS)
def test_it_ends_as_if_never_stopped(
    transformers: Any, torch: Any, tmp_path: Path, trained: Any, kept: Any, stop: int
) -> None:
    whole = make(transformers, torch, tmp_path / "out", **trained)
    whole.train()

    with tk.Checkpointer(tmp_path / "kept", **kept) as checkpointer:
        first = make(transformers, torch, tmp_path / "out", **trained)
        first.add_callback(stopper(transformers, stop))
        with pytest.raises(InterruptedError):
            integration.resume(first, checkpointer)
    with tk.Checkpointer(tmp_path / "kept", **kept) as checkpointer:
        assert checkpointer.checkpoints()
        second = make(transformers, torch, tmp_path / "out", **trained)
        second.add_callback(integration.callback(checkpointer))
        result = integration.resume(second, checkpointer)
    assert result.global_step == whole.state.global_step
    assert second.state.epoch == whole.state.epoch
    assert equal(torch, weights(second), weights(whole))


def test_what_was_logged_becomes_metrics(transformers: Any, torch: Any, tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path / "kept", keep="best=loss") as checkpointer:
        options = {"save_strategy": "steps", "save_steps": 6, "save_only_model": True}
        trainer = make(transformers, torch, tmp_path / "out", **options)
        trainer.add_callback(integration.callback(checkpointer))
        trainer.train()
        last = checkpointer.checkpoints()[-1]
    assert last.step == 18
    assert {"loss", "learning_rate", "grad_norm"} <= last.metrics.keys()


def test_the_states_of_callbacks_are_kept(transformers: Any, torch: Any, tmp_path: Path) -> None:
    def counting(folder: str) -> Any:
        trainer = make(transformers, torch, tmp_path / folder, **options)
        trainer.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=9))
        return trainer

    data = make(transformers, torch, tmp_path).train_dataset
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": data}
    options |= {"metric_for_best_model": "loss", "greater_is_better": True}  # it never gets better
    with tk.Checkpointer(tmp_path / "kept", every_steps=1) as checkpointer:
        first = counting("out")
        first.add_callback(stopper(transformers, 8))
        with pytest.raises(InterruptedError):
            integration.resume(first, checkpointer)
        restored = checkpointer.restore()
    assert restored is not None
    kept = restored.state["trainer"]["stateful_callbacks"]
    counted = kept["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"]
    assert counted == 2  # at steps 4 and 6: that of step 8 comes after its checkpoint
    assert kept["TrainerControl"]["args"]["should_epoch_stop"] is False


def test_several_processes_are_refused(tmp_path: Path) -> None:
    class Several:
        class args:  # noqa: N801
            world_size = 2

    with (
        tk.Checkpointer(tmp_path) as checkpointer,
        pytest.raises(UnsupportedError, match="in 2 processes"),
    ):
        integration.resume(Several(), checkpointer)


@pytest.mark.parametrize("size", ["5GB", "5KB"])
def test_from_pretrained_reads_a_checkpoint(
    transformers: Any, torch: Any, tmp_path: Path, size: str
) -> None:
    model = tiny(transformers).to(torch.bfloat16)
    with tk.Checkpointer(tmp_path, max_shard_size=size) as checkpointer:
        checkpointer.save(1, {"model": model, "optimizer": {"m": torch.ones(3)}, "step": 1})
    folder = tmp_path / "step-00000001"
    model.config.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists() == (size == "5KB")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert loaded.dtype == torch.bfloat16
    assert equal(torch, dict(loaded.state_dict()), dict(model.state_dict()))
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    other = tiny(transformers).to(torch.bfloat16)
    where = folder / "model.safetensors" if size == "5GB" else folder
    hub.load_torch_model(other, where, strict=False)  # tied weights are in it once
    assert equal(torch, dict(other.state_dict()), dict(model.state_dict()))
    assert tk.Checkpointer(tmp_path, read_only=True).checkpoints()[0].ok
