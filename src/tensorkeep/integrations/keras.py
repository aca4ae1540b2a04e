"""Keras: a callback that saves a whole training through a Checkpointer, and goes on with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.optional import require


def callback(checkpointer: Checkpointer, *, every_epochs: int = 1) -> Any:
    """Make the Callback that saves weights, random seeds, optimizer and progress, with the logs.

    It saves at the end of epochs, and when the Checkpointer's own schedule says so (`every_steps`,
    in batches, and the like). When `fit` begins it restores the newest sound checkpoint; the epochs
    that are done count towards `epochs`. An epoch that was interrupted begins anew, with the
    weights that it had come to. Once a signal has asked the Checkpointer to stop, the training
    stops.

    Args:
        checkpointer: to save with and to restore from.
        every_epochs: save at the end of each so many epochs; 0 for never.

    Raises:
        MissingDependencyError: Keras is not installed, or the library that it computes with.
    """
    cure = "Run pip install keras, and one of jax, torch or tensorflow."
    keras = require("keras", "the model is one of Keras", cure)

    base: Any = keras.callbacks.Callback

    class TensorKeepCallback(base):  # type: ignore[misc]
        """Save and restore at Keras's events."""

        def __init__(self) -> None:
            super().__init__()
            self._epoch = 0  # as many are done
            self._batches = 0  # in all epochs
            self._last = -1  # batch of this epoch

        def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
            self._epoch = self._batches = 0
            model = self.model
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            restored = checkpointer.restore(like=self._state())
            if restored is None:
                return
            found = restored.state
            for part, variables in self._variables().items():
                for name, variable in variables.items():
                    variable.assign(found[part][name])
            self._epoch, self._batches = found["epoch"], found["batches"]
            model._initial_epoch = self._epoch  # as Keras's own BackupAndRestore does

        def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
            self.model._initial_epoch = None
            checkpointer.wait()

        def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self._epoch, self._last = epoch, -1

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self._epoch = epoch + 1
            if every_epochs and self._epoch % every_epochs == 0:
                state = self._state()
                checkpointer.save(
                    self._batches, state, metrics=logs, overwrite=True, reason="epoch"
                )

        def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            checkpointer.fence()

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            self._batches += batch - self._last  # several at once with steps_per_execution
            self._last = batch
            checkpointer.step(self._batches, self._state, metrics=logs)
            if checkpointer.stopping:
                self.model.stop_training = True

        def _variables(self) -> dict[str, dict[str, Any]]:
            model = self.model
            return {"model": named(model.variables), "optimizer": named(model.optimizer.variables)}

        def _state(self) -> dict[str, Any]:
            parts = {
                part: {k: keras.ops.convert_to_numpy(v.value) for k, v in variables.items()}
                for part, variables in self._variables().items()
            }
            return {**parts, "epoch": self._epoch, "batches": self._batches}

    return TensorKeepCallback()


def named(variables: Iterable[Any]) -> dict[str, Any]:
    """Call each variable by its path, those of one path apart by a number.

    >>> from types import SimpleNamespace as Variable
    >>> list(named([Variable(path="dense/bias"), Variable(path="dense/bias")]))
    ['dense/bias', 'dense/bias~2']
    """
    found: dict[str, Any] = {}
    for variable in variables:
        name, number = variable.path, 1
        while name in found:
            number += 1
            name = f"{variable.path}~{number}"
        found[name] = variable
    return found
