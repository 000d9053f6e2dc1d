"""Coupling rule for LSTM, GRU and RNN layers.

A hidden unit has rows in each gate, columns in the hidden-to-hidden weights and a place in the outputs. All layers and
directions of one module have the same number of units, so unit j of all of them is removed together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .couplings import Label, Labels
from .rules import Operation


def couple_recurrent(operation: Operation) -> list[Labels] | None:
    """Couple the parameters of a recurrent module with its inputs and outputs.

    Returns:
        Labels of the outputs: the sequence, then the last states. None if the module has a projection or a given
        initial state, which are not supported.
    """
    module, couplings = operation.values["module"], operation.couplings
    if module.proj_size or operation.values.get("hx") is not None:
        return None
    directions = 2 if module.bidirectional else 1
    units = couplings.fresh(module.hidden_size)
    source = operation.values["input"]
    data = getattr(source, "data", source) if isinstance(source, tuple) else source
    given: Label = operation.labels(data)[-1]
    for layer in range(module.num_layers):
        for direction in range(directions):
            _couple_cell(operation, f"l{layer}{'_reverse' if direction else ''}", units, given)
        given = _twice(couplings.resolve(units), directions)
    found = couplings.resolve(units)
    labels: list[Labels] = [[None] * out.ndim for out in operation.outputs]
    labels[0][-1] = _twice(found, directions)
    for state, output in zip(labels[1:], operation.outputs[1:], strict=True):
        # The outputs of a packed sequence also hold integers, which have no units.
        if output.is_floating_point():
            state[-1] = found
    return labels


def _couple_cell(operation: Operation, suffix: str, units: np.ndarray, given: Label) -> None:
    module, couplings = operation.values["module"], operation.couplings
    parameters: dict[str, Any] = {
        kind: getattr(module, f"{kind}_{suffix}", None) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    gates = parameters["weight_ih"].shape[0] // module.hidden_size
    for parameter in parameters.values():
        if parameter is not None:
            couplings.unify(operation.labels(parameter)[0], np.tile(units, (gates, 1)))
    couplings.unify(operation.labels(parameters["weight_hh"])[1], units)
    couplings.unify(operation.labels(parameters["weight_ih"])[1], given)


def _twice(units: Label, directions: int) -> Label:
    return None if units is None else np.tile(units, (directions, 1))
