"""Detection of notebook variables that hold models, data or functions, without importing or running anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..views import format as fmt

Fits = Callable[[Any], bool]


class Found(dict[str, Any]):
    """Variables for the side panel, sent as JSON."""

    def _repr_json_(self) -> dict[str, Any]:
        return dict(self)


def found(shell: Any) -> Found:
    """Return the models, data and functions of a notebook, with descriptions.

    Args:
        shell: The InteractiveShell of the notebook.

    Returns:
        ``models`` and ``data`` [{name, words}], ``functions`` [name], and ``is_loaded``: whether ``%quanttaas`` is
        registered.
    """
    space = shell.user_ns

    def described(fits: Fits, words: Callable[[Any], str]) -> list[dict[str, str]]:
        return [{"name": name, "words": _quietly(words, space[name])} for name in variables(shell, fits)]

    return Found(
        models=described(_is_trained, _of_model),
        data=described(is_data, _of_data),
        functions=variables(shell, is_own_function),
        is_loaded="quanttaas" in shell.magics_manager.magics["cell"],
    )


def variables(shell: Any, fits: Fits) -> list[str]:
    """Return the names of variables whose values fit, except those that start with an underscore."""
    hidden = shell.user_ns_hidden
    return [
        name
        for name, value in list(shell.user_ns.items())
        if not name.startswith("_") and name not in hidden and holds(fits, value)
    ]


def holds(fits: Fits, value: Any) -> bool:
    """Return whether a value fits; objects of the notebook may raise from any attribute."""
    try:
        return fits(value)
    except Exception:
        return False


def is_model(value: Any) -> bool:
    """Return whether a value is a torch module; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_data(value: Any) -> bool:
    """Return whether a value looks like a loader, a data set, or a tuple or list of arrays or batches."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(value, (data.DataLoader, data.Dataset)):
        return True
    if not isinstance(value, (tuple, list)) or not value:
        return False
    first = value[0]
    return _is_array(first) or (isinstance(first, (tuple, list)) and bool(first) and _is_array(first[0]))


def is_function(value: Any) -> bool:
    """Return whether a value is callable, and neither a class nor a model."""
    return callable(value) and not isinstance(value, type) and not is_model(value)


def is_own_function(value: Any) -> bool:
    """Return whether a value is a function defined in the notebook."""
    return is_function(value) and getattr(value, "__module__", None) == "__main__" and hasattr(value, "__code__")


def _is_array(value: Any) -> bool:
    # Scalars, such as losses that a loop collected, are no data.
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def _is_trained(value: Any) -> bool:
    """Return whether a model has parameters; loss functions and activations are modules too."""
    return is_model(value) and next(_parameters(value), None) is not None


def _parameters(model: Any) -> Any:
    # The base class's method, so that no code of the notebook runs.
    module = sys.modules["torch"].nn.Module
    return (parameter for _, parameter in module.named_parameters(model))


def _quietly(words: Callable[[Any], str], value: Any) -> str:
    # A lazy module has no sizes yet; a data set of the notebook may raise from its length.
    try:
        return words(value)
    except Exception:
        return type(value).__name__


def _of_model(model: Any) -> str:
    parameters = list(_parameters(model))
    buffers = [buffer for _, buffer in sys.modules["torch"].nn.Module.named_buffers(model)]
    leaves = [*parameters, *buffers]
    count = sum(parameter.numel() for parameter in parameters)
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    devices = sorted({str(leaf.device) for leaf in leaves})
    return " · ".join([type(model).__name__, fmt.count(count), fmt.size(size), *devices])


def _of_data(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        first = value[0]
        return f"{len(first):,} samples" if _is_array(first) else f"{len(value):,} batches"
    kind, source = type(value).__name__, getattr(value, "dataset", value)
    # A length computed by code of the notebook may take long, or print.
    length = getattr(type(source), "__len__", None)
    is_own = getattr(length, "__module__", None) == "__main__"
    return kind if length is None or is_own else f"{kind} · {len(source):,} samples"
