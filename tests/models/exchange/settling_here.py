"""Settling without a process for each model, for tests that settle many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import pytest

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange import settling
from tensorkeep.models.exchange.settling.asking import Worked
from tensorkeep.models.exchange.settling_process.__main__ import settle


def _work_out(thin: Message, keeps: Sequence[str], where: str) -> Worked:
    try:
        made, said = settle(onnx.ModelProto.FromString(thin.encode()), keeps)
    except Exception as error:
        raise ArgumentError(f"it cannot be worked out: {error}", where=where) from error
    return Worked(Message.parse(MODEL, made.SerializeToString()), said)


@contextmanager
def settling_here() -> Iterator[None]:
    """Have models worked out by the same code in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "work_out", _work_out)
        yield
