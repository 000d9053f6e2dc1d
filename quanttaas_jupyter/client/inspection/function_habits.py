"""What a metric function of a person's own must not do, found by calling it on some samples again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...bundle.structure import flatten
from ...core.errors import MetricError
from ...core.failures import StageError
from ...core.understanding import Judging
from ...techniques.evaluate.gathered import joined
from ...techniques.evaluate.tensors import rows_of
from ...techniques.evaluate.torchmetrics_state import maker

_SHAPES = "outputs (n, 1) and targets (n)"

Function = Callable[[Any, Any], Any]


def called_on_copies(function: Function, name: str, outputs: Any, targets: Any) -> Any:
    """Call a function, and refuse one that changes what it is given: other metrics see the same tensors.

    Raises:
        MetricError: It changes outputs or targets.
    """
    import torch
    from torch.utils._pytree import tree_map

    given = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (outputs, targets))
    value = function(*given)
    if not all(map(_same, _tensors(given), _tensors((outputs, targets)))):
        raise MetricError(
            f"metric {name!r} changes its arguments in place: let it work on copies, such as outputs.clone()"
        )
    return value


def refuse_unsteady(
    function: Function, name: str, value: Any, outputs: Any, targets: Any, judging: Judging, samples: int
) -> None:
    """Refuse a function whose number depends on more than the samples it is given.

    Args:
        function: The function.
        name: Its name.
        value: What it gave for these samples before.
        outputs: Outputs of some samples, as the function takes them.
        targets: Their targets.
        judging: How outputs are compared with targets.
        samples: Number of samples.

    Raises:
        MetricError: It gives another number for the same samples, one value a class rather than a sample, a number that
            grows with the samples, or compares every output with every target.
    """
    _refuse_broadcasting(function, name, value, outputs, targets)
    half = _half(outputs, targets, judging, samples)
    of_half = _values(function, half)
    again, before = _values(function, (outputs, targets)), _as_array(value)
    if again is not None and not (again.shape == before.shape and np.allclose(again, before, 1e-4, equal_nan=True)):
        raise MetricError(
            f"metric {name!r} gives another number when it is called again with the same samples: let it keep nothing "
            "from call to call, and seed what it draws at random"
        )
    if of_half is None or half is None:
        return
    if before.size > 1 and of_half.size == before.size:
        raise MetricError(
            f"metric {name!r} gives {before.size} values for {samples} samples and as many for {samples // 2}: return "
            "one number, such as their mean, or one a sample"
        )
    if before.size > 1 and not np.allclose(before[: of_half.size], of_half, 1e-3, 1e-6, equal_nan=True):
        raise MetricError(
            f"metric {name!r} gives a sample another value where fewer samples are beside it, as {_SHAPES} do that "
            "broadcast: let it compare each sample with its own target"
        )
    if before.size == 1 and _doubles(function, name, of_half, half, judging):
        raise MetricError(
            f"metric {name!r} grows with the number of samples, so that it says how many there are: return a mean over "
            "them, or one value a sample"
        )


def refuse_means_of_batches(metric: Any, name: str, arguments: tuple[Any, ...], samples: int) -> None:
    """Refuse a metric that a person derived from TorchMetrics' and that depends on where batches end.

    Args:
        metric: The metric.
        name: Its name.
        arguments: What its ``update`` takes for some samples.
        samples: Number of samples.

    Raises:
        MetricError: It is another number where the samples come in two batches.
    """
    make, edge = maker(metric), samples // 3
    whole, parts = make(), make()
    try:
        whole.update(*arguments)
        for rows in (slice(0, edge), slice(edge, samples)) if edge else (slice(0, samples),):
            parts.update(*(rows_of(argument, rows) for argument in arguments))
        found = whole.compute(), parts.compute()
    except StageError:
        # A few samples may lack a class.
        return
    if not np.allclose(*found, 1e-3, 1e-6):
        raise MetricError(
            f"metric {name} is {found[0]:.4g} for a batch, and {found[1]:.4g} where it comes in two, as a mean of the "
            "means of batches is: let it add up over samples, and divide in compute()"
        )


def _refuse_broadcasting(function: Function, name: str, value: Any, outputs: Any, targets: Any) -> None:
    """Refuse a number of outputs (n, 1) and targets (n) that is another one once both have one shape, whichever."""
    import torch

    is_one = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    if not is_one or outputs.shape == targets.shape or outputs.numel() != targets.numel():
        return
    found = [
        _values(function, (outputs, targets.reshape(outputs.shape))),
        _values(function, (outputs.reshape(targets.shape), targets)),
    ]
    before = _as_array(value)
    if any(other is None or other.shape != before.shape for other in found):
        return
    if np.allclose(found[0], found[1], 1e-4) and not np.allclose(found[0], before, 1e-3):
        raise MetricError(
            f"metric {name!r} is {before[0]:.4g} with outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}, which broadcast, and {found[0][0]:.4g} once they have one shape: let it reshape "
            "one of them"
        )


def _doubles(function: Function, name: str, of_half: Any, half: tuple[Any, Any], judging: Judging) -> bool:
    dims = judging.output_dim, judging.target_dim
    twice = tuple(joined([part, part], name, dim) for part, dim in zip(half, dims, strict=True))
    found = _values(function, twice)
    return found is not None and found.size == 1 and bool(of_half.any()) and np.allclose(found, 2 * of_half, 1e-6, 0)


def _half(outputs: Any, targets: Any, judging: Judging, samples: int) -> tuple[Any, Any] | None:
    parts = (outputs, judging.output_dim), (targets, judging.target_dim)
    if samples < 2 or not judging.is_cut or not all(_has_rows(value, dim, samples) for value, dim in parts):
        return None
    rows = slice(0, samples // 2)
    return rows_of(outputs, rows, judging.output_dim), rows_of(targets, rows, judging.target_dim)


def _has_rows(value: Any, dim: int, samples: int) -> bool:
    """Whether a value has one row a sample; those of the nodes of graphs are others."""
    if isinstance(value, list):
        return len(value) == samples
    leaves = [leaf for _, leaf in flatten(value)[0]]
    return all(getattr(leaf, "ndim", 0) > dim and leaf.shape[dim] == samples for leaf in leaves)


def _values(function: Function, arguments: Any) -> Any:
    """Return a function's values; None where it has none, as half of the samples may lack a class."""
    if arguments is None:
        return None
    try:
        return _as_array(function(*arguments))
    except Exception:
        return None


def _as_array(value: Any) -> Any:
    return np.asarray(value.detach().double() if hasattr(value, "detach") else value, dtype=float).reshape(-1)


def _tensors(value: Any) -> list[Any]:
    import torch

    return [leaf for _, leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]


def _same(mine: Any, theirs: Any) -> bool:
    return mine.shape == theirs.shape and bool(((mine == theirs) | (mine != mine)).all())
