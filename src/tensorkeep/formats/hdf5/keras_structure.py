"""How a file of Keras before version 3 is laid out: layers, each with its weights, by name.

    layer_names                      the layers, in order
    LAYER          weight_names      the weights of a layer, in order: paths below its group
    top_level_model_weights          those of the model itself
    optimizer_weights                those of the optimizer, beside the group `model_weights`

A weight is called what it is called in Keras, behind its layer's name: `dense/kernel:0`. Where two
would share a name, both are called by their paths. Those of the optimizer begin with `optimizer.`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.formats.hdf5.keras_detect import MODEL, OPTIMIZER
from tensorkeep.formats.hdf5.keras_names import is_path
from tensorkeep.state import Json

TOP = "top_level_model_weights"
_OPTIMIZER = "optimizer."


@dataclass(slots=True)
class Structure:
    """The weights of each layer, those of the model itself, and those of the optimizer.

    The last two are None where there is no group for them.
    """

    layers: dict[str, list[str]] = field(default_factory=dict)
    top: list[str] | None = None
    optimizer: list[str] | None = None

    def places(self, above: str = "") -> dict[str, str]:
        """Give the path of each weight by its name.

        Args:
            above: the group that holds those of the layers, with a slash behind it.

        >>> Structure({"dense": ["dense/kernel:0"], "inner": ["deep/bias:0"]}).places()
        {'dense/kernel:0': 'dense/dense/kernel:0', 'inner/deep/bias:0': 'inner/deep/bias:0'}
        """
        rows = dict.fromkeys(self._rows(above))
        shared = Counter(name for name, _ in rows)
        found = {name if shared[name] == 1 else path: path for name, path in rows}
        return found if len(found) == len(rows) else {path: path for _, path in rows}

    def _rows(self, above: str) -> Iterator[tuple[str, str]]:
        for layer, weights in [*self.layers.items(), (TOP, self.top or [])]:
            for weight in weights:
                path = f"{layer}/{weight}"
                yield (weight if weight.startswith(f"{layer}/") else path), above + path
        for weight in self.optimizer or []:
            yield _OPTIMIZER + weight, f"{OPTIMIZER}/{weight}"

    def only(self, paths: Iterable[str], above: str = "") -> Structure:
        """Give a structure without the weights that are not at one of these paths."""
        held = set(paths)

        def kept(group: str, weights: list[str]) -> list[str]:
            return [weight for weight in weights if f"{group}/{weight}" in held]

        return Structure(
            {layer: kept(above + layer, weights) for layer, weights in self.layers.items()},
            None if self.top is None else kept(above + TOP, self.top),
            None if self.optimizer is None else kept(OPTIMIZER, self.optimizer),
        )

    def as_json(self) -> dict[str, Json]:
        """Give it as JSON, for the metadata."""
        found: dict[str, Json] = {"layers": {k: list(v) for k, v in self.layers.items()}}
        if self.top is not None:
            found["top_level"] = list(self.top)
        if self.optimizer is not None:
            found["optimizer"] = list(self.optimizer)
        return found


def from_json(value: Mapping[str, Any]) -> Structure | None:
    """Give the structure that metadata speaks of; None where it speaks of none.

    >>> from_json({"layers": {"dense": ["dense/kernel"]}}).places()
    {'dense/kernel': 'dense/dense/kernel'}
    """
    layers, top, optimizer = (value.get(key) for key in ("layers", "top_level", "optimizer"))
    lists = [*layers.values()] if isinstance(layers, dict) else [None]
    lists += [each for each in (top, optimizer) if each is not None]
    if not all(isinstance(each, list) and all(isinstance(w, str) for w in each) for each in lists):
        return None
    return Structure(dict(value["layers"]), top, optimizer)


def from_names(names: Iterable[str]) -> Structure:
    """Lay out weights by their names alone: LAYER/WEIGHT, or optimizer.WEIGHT; leaves out others.

    >>> from_names(["dense/kernel", "optimizer.sgd/iteration", "w"])
    Structure(layers={'dense': ['dense/kernel']}, top=[], optimizer=['sgd/iteration'])
    """
    found = Structure(top=[])
    for name in names:
        layer, _, weight = name.partition("/")
        if not is_path(name):
            continue
        if name.startswith(_OPTIMIZER):
            found.optimizer = [*(found.optimizer or []), name.removeprefix(_OPTIMIZER)]
        elif layer == TOP and weight and found.top is not None:
            found.top.append(weight)
        elif weight and layer not in (MODEL, OPTIMIZER, TOP):
            found.layers.setdefault(layer, []).append(name)
    return found
