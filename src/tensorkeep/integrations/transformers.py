"""Hugging Face's Trainer: saves through a Checkpointer, and goes on as if it had never stopped.

`resume(trainer, checkpointer)` takes the place of `trainer.train()`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.errors import UnsupportedError
from tensorkeep.integrations.randomness import Later, restore_apart
from tensorkeep.optional import require

_WEIGHTS = "model"  # the entry whose files Trainer itself can read
_TRAINER_STATE = "trainer_state.json"


def callback(checkpointer: Checkpointer) -> Any:
    """Make the TrainerCallback that saves model, optimizer, scheduler and the Trainer's state.

    It saves whenever Trainer does (`save_strategy`), and when the Checkpointer's own schedule says
    so (`every_steps` and the like). With `save_strategy="no"` Trainer writes nothing itself. Once a
    signal has asked the Checkpointer to stop, the training stops.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    return _make(checkpointer)


def resume(trainer: Any, checkpointer: Checkpointer) -> Any:
    """Train from the newest sound checkpoint on, or from the start where there is none.

    Weights, optimizer, scheduler, scaler, the Trainer's state, the states of its callbacks and the
    random generators are as they were; batches that were seen are skipped, as Trainer does.

    Args:
        trainer: made as for the training that was interrupted; the callback is added to it where
            it has none.
        checkpointer: to restore from, and to save with.

    Returns:
        What `trainer.train()` returns.

    Raises:
        UnsupportedError: the training runs in several processes, each with a part of the state.
        MismatchError: the checkpoint does not fit the trainer's model.
        MissingDependencyError: transformers is not installed.
    """
    if trainer.args.world_size > 1:
        raise UnsupportedError(
            f"the training runs in {trainer.args.world_size} processes",
            cure="Use a Trainer of one process.",
        )
    ours = _make(checkpointer)
    for each in trainer.callback_handler.callbacks:
        if type(each).__name__ == type(ours).__name__ and each.checkpointer is checkpointer:
            ours = each
            break
    else:
        trainer.add_callback(ours)
    ours.trainer = trainer
    restored, later = restore_apart(checkpointer, {**_parts(trainer.model), **_UNSEEN})
    if restored is None:
        return trainer.train()
    ours.restored, ours.later = restored.step, later
    # What Trainer reads itself before the optimizer exists: its state, and weights, which it wants
    # to find. All is restored again, whole, when the training begins.
    with tempfile.TemporaryDirectory(prefix="tensorkeep-") as folder:
        for name in os.listdir(restored.path):
            if name.startswith(_WEIGHTS) and ".safetensors" in name:
                os.symlink(os.path.join(os.path.abspath(restored.path), name), f"{folder}/{name}")
        with open(os.path.join(folder, _TRAINER_STATE), "w", encoding="utf-8") as file:
            json.dump(restored.state["trainer"], file)
        return trainer.train(resume_from_checkpoint=folder)


_UNSEEN = {"optimizer": None, "scheduler": None, "scaler": None, "trainer": None}


def _parts(model: Any, optimizer: Any = None, scheduler: Any = None) -> dict[str, Any]:
    scaler = getattr(optimizer, "scaler", None)  # Accelerate's wrapper has it
    return {_WEIGHTS: model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}


def _exported(callbacks: Iterable[Any], kind: Any) -> dict[str, Any]:
    """Give the states of callbacks as Trainer keeps them: by class, several in a list."""
    found: dict[str, list[Any]] = {}
    for each in callbacks:
        if isinstance(each, kind):
            found.setdefault(type(each).__name__, []).append(each.state())
    return {name: rows[0] if len(rows) == 1 else rows for name, rows in found.items()}


def _make(checkpointer: Checkpointer) -> Any:
    cure = "Run pip install transformers accelerate."
    library = require("transformers.trainer_callback", "Trainer is of transformers", cure)

    base: Any = library.TrainerCallback

    class TensorKeepCallback(base):  # type: ignore[misc]
        """Save at Trainer's events."""

        def __init__(self) -> None:
            self.checkpointer = checkpointer
            self.trainer: Any = None  # known where `resume` was used
            self.restored: int | None = None
            self.later: Later = lambda: None
            self._moving = True

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            model = given["model"]
            named = {name for name, _ in model.named_parameters(remove_duplicate=False)}
            self._moving = any(name not in named for name in model.state_dict())
            if self.restored is not None:
                parts = _parts(model, given["optimizer"], given["lr_scheduler"])
                like = {**parts, "trainer": None}
                checkpointer.restore(like, step=self.restored, rng=False, verify=False)  # it was
                self.restored = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.later()  # after the batches that were seen were skipped
            if self._moving:  # such as the averages of a BatchNorm
                checkpointer.fence()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.epoch is not None and float(state.epoch).is_integer():
                self.later()  # before the epoch's order is drawn

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checkpointer.fence()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            step = state.global_step
            checkpointer.step(step, lambda: self._state(state, control, given))
            if checkpointer.stopping:
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checkpointer.save(
                state.global_step,
                self._state(state, control, given),
                metrics=self._metrics(state),
                overwrite=True,
            )

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checkpointer.wait()

        def _state(self, state: Any, control: Any, given: dict[str, Any]) -> dict[str, Any]:
            known = []
            if self.trainer is not None:
                self.trainer.store_flos()
                known = self.trainer.callback_handler.callbacks
            states = _exported([*known, control], library.ExportableState)
            kept = asdict(state)
            kept["stateful_callbacks"] = {**kept["stateful_callbacks"], **states}
            parts = _parts(given["model"], given["optimizer"], given["lr_scheduler"])
            return {**parts, "trainer": json.loads(json.dumps(kept))}

        def _metrics(self, state: Any) -> dict[str, float]:
            """Give what was logged at this step."""
            rows = [row for row in state.log_history if row.get("step") == state.global_step]
            merged = {name: value for row in rows for name, value in row.items()}
            return {k: v for k, v in merged.items() if isinstance(v, int | float) and k != "step"}

    return TensorKeepCallback()
