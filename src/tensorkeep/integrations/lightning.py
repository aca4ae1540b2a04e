"""Lightning: its checkpoints as safetensors files, or saved and resumed through a Checkpointer.

`lightning.pytorch` and `pytorch_lightning` are served alike: the one that is imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tensorkeep import api
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.integrations.randomness import Later, restore_apart
from tensorkeep.optional import require


def checkpoint_io(*, durable: bool = True, verify: bool = True) -> Any:
    """Make the plugin that has Lightning write its checkpoints as single safetensors files.

    Each appears whole or not at all, at the path that Lightning gives it, without pickle; what
    cannot be kept of a checkpoint is refused with its place. Give it to `Trainer(plugins=[...])`.

    Args:
        durable: have each on the disk, safe from a loss of power, when it is saved.
        verify: check every tensor against its digest while a checkpoint is loaded.

    Raises:
        MissingDependencyError: Lightning is not installed.
    """
    library = _library()

    base: Any = library.plugins.io.CheckpointIO

    class TensorKeepIO(base):  # type: ignore[misc]
        """Write and read one file a checkpoint."""

        def save_checkpoint(
            self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
        ) -> None:
            if storage_options is not None:
                raise ArgumentError("there are no storage options", where=os.fspath(path))
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            api.save(checkpoint, path, format="safetensors", durable=durable)

        def load_checkpoint(
            self, path: Any, map_location: Any = None, weights_only: bool | None = None
        ) -> Any:
            if callable(map_location) or isinstance(map_location, dict):
                raise UnsupportedError(
                    f"map_location is a {type(map_location).__name__}",
                    where=os.fspath(path),
                    cure='Give a device, such as "cpu".',
                )
            device = None if map_location is None else str(map_location)
            return api.load(path, format="safetensors", device=device, verify=verify)

        def remove_checkpoint(self, path: Any) -> None:
            if os.path.lexists(path):
                os.unlink(path)

    return TensorKeepIO()


def callback(
    checkpointer: Checkpointer, *, every_epochs: int = 1, on_exception: bool = False
) -> Any:
    """Make the Callback that saves all that Lightning keeps in a checkpoint.

    It saves at the end of epochs, and when the Checkpointer's own schedule says so (`every_steps`
    and the like). Once a signal has asked the Checkpointer to stop, the training stops.

    Args:
        checkpointer: to save with.
        every_epochs: save at the end of each so many epochs; 0 for never.
        on_exception: save when the training ends by an exception, as far as it had come.

    Raises:
        MissingDependencyError: Lightning is not installed.
    """
    return _make(_library(), checkpointer, every_epochs, on_exception)


def resume(trainer: Any, model: Any, checkpointer: Checkpointer, **fit: Any) -> None:
    """Fit from the newest sound checkpoint on, or from the start where there is none.

    Lightning restores all that its own checkpoints hold; the random generators are as they were,
    too. In the middle of an epoch it goes on with the next batch if the loader can be resumed, as
    torchdata's StatefulDataLoader can; other loaders begin anew. At the end of an epoch Lightning
    leaves all loaders as they are, so one with a generator of its own draws other orders then.

    Args:
        trainer: with a `callback` of the same Checkpointer; one is added where there is none.
        model: to fit.
        checkpointer: to restore from, and to save with.
        fit: what else `trainer.fit` takes.

    Raises:
        UnsupportedError: the training runs in several processes, each with a part of the state.
        MissingDependencyError: Lightning is not installed.
    """
    _refuse_several(trainer)
    library = _library(type(trainer))
    ours = _make(library, checkpointer, 1, False)
    for each in trainer.callbacks:
        if type(each).__name__ == type(ours).__name__ and each.checkpointer is checkpointer:
            ours = each
            break
    else:
        trainer.callbacks.append(ours)
    restored, ours.later = restore_apart(checkpointer)
    if restored is None:
        trainer.fit(model, **fit)
        return
    found, strategy = [restored.state], trainer.strategy
    usual = strategy.checkpoint_io

    base: Any = library.plugins.io.CheckpointIO

    class Given(base):  # type: ignore[misc]
        """Give what was restored, once, and leave."""

        def save_checkpoint(self, *_: Any, **__: Any) -> None: ...

        def load_checkpoint(self, *_: Any, **__: Any) -> Any:
            strategy.checkpoint_io = usual
            return found.pop()

        def remove_checkpoint(self, *_: Any, **__: Any) -> None: ...

    strategy.checkpoint_io = Given()
    try:
        trainer.fit(model, ckpt_path=restored.path, **fit)
    finally:
        strategy.checkpoint_io = usual


def _library(kind: type | None = None) -> Any:
    """Import the Lightning that a class is of, or that is imported already, or that is there."""
    if kind is not None:
        name = kind.__module__
        old = name.startswith("pytorch_lightning")
    else:
        old = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
    module = "pytorch_lightning" if old else "lightning.pytorch"
    return require(module, "Trainer is of Lightning", "Run pip install lightning.")


def _refuse_several(trainer: Any) -> None:
    if trainer.world_size > 1:
        raise UnsupportedError(
            f"the training runs in {trainer.world_size} processes",
            cure="Use a Trainer of one device, or Lightning's own checkpoints with checkpoint_io.",
        )


def _make(library: Any, checkpointer: Checkpointer, every_epochs: int, on_exception: bool) -> Any:
    base: Any = library.callbacks.Checkpoint

    class TensorKeepCallback(base):  # type: ignore[misc]
        """Save at Lightning's events."""

        def __init__(self) -> None:
            self.checkpointer = checkpointer
            self.later: Later = lambda: None
            self._within = False  # an epoch
            self._seen = -1

        def state_dict(self) -> dict[str, Any]:
            return {"within": self._within}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self._within = bool(state["within"])

        def on_fit_start(self, trainer: Any, module: Any) -> None:
            _refuse_several(trainer)
            if not self._within:
                self.later()  # before the loaders draw the order of the epoch

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.later()  # the loaders have drawn it

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            checkpointer.fence()

        def on_train_batch_end(self, trainer: Any, module: Any, o: Any, b: Any, index: int) -> None:
            last = index + 1 == trainer.num_training_batches
            if last or trainer.global_step == self._seen:  # the end of the epoch is near, or none
                return
            self._seen = trainer.global_step
            self._within = True
            self._step(trainer)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self._within = False
            self._seen = trainer.global_step
            if every_epochs and (trainer.current_epoch + 1) % every_epochs == 0:
                self._save(trainer, "epoch")
            else:
                self._step(trainer)

        def on_exception(self, trainer: Any, module: Any, error: BaseException) -> None:
            if on_exception and isinstance(error, Exception | KeyboardInterrupt):
                self._save(trainer, "exception")

        def on_train_end(self, trainer: Any, module: Any) -> None:
            checkpointer.wait()

        def _step(self, trainer: Any) -> None:
            checkpointer.step(trainer.global_step, lambda: self._dump(trainer))
            if checkpointer.stopping:
                trainer.should_stop = True

        def _save(self, trainer: Any, reason: str) -> None:
            step, metrics = trainer.global_step, dict(trainer.callback_metrics)
            state = self._dump(trainer)
            checkpointer.save(step, state, metrics=metrics, overwrite=True, reason=reason)

        def _dump(self, trainer: Any) -> dict[str, Any]:
            """Have Lightning make a checkpoint, and take it."""
            taken: list[dict[str, Any]] = []

            base: Any = library.plugins.io.CheckpointIO

            class Taking(base):  # type: ignore[misc]
                """Take what is to be saved."""

                def save_checkpoint(self, checkpoint: Any, *_: Any, **__: Any) -> None:
                    taken.append(checkpoint)

                def load_checkpoint(self, *_: Any, **__: Any) -> None: ...

                def remove_checkpoint(self, *_: Any, **__: Any) -> None: ...

            usual = trainer.strategy.checkpoint_io
            trainer.strategy.checkpoint_io = Taking()
            try:
                trainer.save_checkpoint("taken", weights_only=False)
            finally:
                trainer.strategy.checkpoint_io = usual
            if not taken:
                raise UnsupportedError(
                    f"{type(trainer.strategy).__name__} writes checkpoints of its own",
                    cure="Use a Trainer of one device.",
                )
            return taken[0]

    return TensorKeepCallback()
