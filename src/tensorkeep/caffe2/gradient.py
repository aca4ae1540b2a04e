"""Gradients: which operators have none, and which must never be asked for one.

Loading and saving are not differentiated. Caffe2 tells two cases apart: an operator with no
gradient (asking gives no operators, and nothing flows back), and one for which asking is a
mistake (an error). An operator that was registered as neither is an error too.
Facts: caffe2/core/operator_gradient.h and the registrations beside each operator.
"""

from __future__ import annotations

from tensorkeep.caffe2.operator import check_type, describe
from tensorkeep.errors import UnsupportedError
from tensorkeep.message import Message

_WITHOUT: set[str] = set()
_REFUSED: set[str] = set()


def no_gradient(*types: str) -> None:
    """Say that operators of these types have no gradient: asking for it gives nothing.

    >>> from tensorkeep.caffe2 import create_operator
    >>> no_gradient("Load")
    >>> gradient_of(create_operator("Load", [], ["w"]))
    []
    """
    _WITHOUT.update(types)
    _REFUSED.difference_update(types)


def should_not_do_gradient(*types: str) -> None:
    """Say that asking for the gradient of operators of these types is an error.

    >>> should_not_do_gradient("Save", "Checkpoint")
    """
    _REFUSED.update(types)
    _WITHOUT.difference_update(types)


def gradient_of(definition: Message) -> list[Message]:
    """List the operators that compute the gradient of one: none, or an error.

    Raises:
        UnsupportedError: the gradient of this type must not be asked for, or is not known.

    >>> from tensorkeep.caffe2 import create_operator
    >>> gradient_of(create_operator("Load", [], ["w"], db="w.minidb", db_type="minidb"))
    []
    """
    check_type(definition)
    if definition.type in _WITHOUT:
        return []
    if definition.type in _REFUSED:
        raise UnsupportedError(
            "its gradient must not be asked for",
            where=describe(definition),
            cure="Keep it off the path from the parameters to the loss.",
        )
    raise UnsupportedError("no gradient is known for it", where=describe(definition))
