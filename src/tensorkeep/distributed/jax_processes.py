"""How JAX's processes tell one another the token of a save, and how it ended.

They use the key-value store of JAX's own coordination service, which `jax.distributed.initialize`
has started, so that no collective runs and nothing on a device is touched. All processes save in
the same order, as they do all else.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tensorkeep.errors import ArgumentError, StoreError

_CALLS: Counter[str] = Counter()  # saves so far, by what they were called
_FAILED = "failed: "
_LONGEST = 2**40  # milliseconds


class Channel:
    """Carries messages of process 0 to all others.

    Args:
        jax: the module.
        name: what is being saved, the same in all processes.
        timeout: seconds that a message is waited for.
    """

    def __init__(self, jax: Any, name: str, timeout: float) -> None:
        self.rank: int = jax.process_index()
        self.ranks: int = jax.process_count()
        self._timeout = timeout
        self._name = name
        _CALLS[name] += 1
        self._key = f"tensorkeep/{name}/{_CALLS[name]}"
        self._client = None if self.ranks == 1 else _client(name)

    def tell(self, what: str, message: str, failure: object = None) -> None:
        """Process 0: tell all others something, or that it failed."""
        if self._client is not None:
            text = message if failure is None else f"{_FAILED}{failure}"
            self._client.key_value_set(f"{self._key}/{what}", text)

    def hear(self, what: str, patience: float = 1.0) -> str:
        """Any other process: wait for what process 0 tells.

        Raises:
            StoreError: it has failed, or told nothing in time.
        """
        assert self._client is not None
        milliseconds = int(min(1000 * self._timeout * patience, _LONGEST))
        try:
            told = str(self._client.blocking_key_value_get(f"{self._key}/{what}", milliseconds))
        except RuntimeError as error:
            raise StoreError(
                f"process 0 did not tell its {what} within {milliseconds / 1000:g} s",
                where=self._name,
                cure="Look at what became of it; the checkpoint before is still the newest.",
            ) from error
        if told.startswith(_FAILED):
            raise StoreError(f"process 0 {told}", where=self._name)
        return told


def _client(name: str) -> Any:
    from jax._src import distributed  # there is no public way to it

    client = distributed.global_state.client
    if client is None:
        raise ArgumentError(
            "JAX has several processes, which cannot tell one another anything",
            where=name,
            cure="Call jax.distributed.initialize() first.",
        )
    return client
