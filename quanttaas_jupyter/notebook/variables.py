"""Which variables of a notebook hold models, data or functions; nothing is imported or run to find out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..views import format as fmt

Fits = Callable[[Any], bool]


class Found(dict[str, Any]):
    """The answer to the side panel; goes to it as JSON."""

    def _repr_json_(self) -> dict[str, Any]:
        return dict(self)


def found(shell: Any) -> Found:
    """The models, data and functions of a notebook, with what a person wants to know of them.

    Args:
        shell: The InteractiveShell of the notebook.

    Returns:
        ``models`` and ``data`` [{name, words}], ``functions`` [name], ``is_loaded``: whether ``%quanttaas`` is there.
    """
    space = shell.user_ns

    def described(fits: Fits, words: Callable[[Any], str]) -> list[dict[str, str]]:
        return [{"name": name, "words": _quietly(words, space[name])} for name in variables(shell, fits)]

    return Found(
        models=described(is_model, _of_model),
        data=described(is_data, _of_data),
        functions=variables(shell, is_own_function),
        is_loaded="quanttaas" in shell.magics_manager.magics["cell"],
    )


def variables(shell: Any, fits: Fits) -> list[str]:
    """Names of the notebook whose values fit; an underscore in front hides one."""
    hidden = shell.user_ns_hidden
    return [
        name
        for name, value in list(shell.user_ns.items())
        if not name.startswith("_") and name not in hidden and holds(fits, value)
    ]


def holds(fits: Fits, value: Any) -> bool:
    """Whether a value fits; objects of the notebook may raise from any attribute."""
    try:
        return fits(value)
    except Exception:
        return False


def is_model(value: Any) -> bool:
    """Whether this is a torch module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_data(value: Any) -> bool:
    """Whether this looks like a loader, a data set, or a tuple or list of arrays or batches."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(value, (data.DataLoader, data.Dataset)):
        return True
    if not isinstance(value, (tuple, list)) or not value:
        return False
    first = value[0]
    return _is_array(first) or (isinstance(first, (tuple, list)) and bool(first) and _is_array(first[0]))


def is_function(value: Any) -> bool:
    """Whether this can be called and is neither a class nor a model."""
    return callable(value) and not isinstance(value, type) and not is_model(value)


def is_own_function(value: Any) -> bool:
    """Whether this is a function that was written in the notebook."""
    return is_function(value) and getattr(value, "__module__", None) == "__main__" and hasattr(value, "__code__")


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _quietly(words: Callable[[Any], str], value: Any) -> str:
    # A lazy module has no sizes yet; a data set of the notebook may raise from its length.
    try:
        return words(value)
    except Exception:
        return type(value).__name__


def _of_model(model: Any) -> str:
    leaves = [*model.parameters(), *model.buffers()]
    count = sum(parameter.numel() for parameter in model.parameters())
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    devices = sorted({str(leaf.device) for leaf in leaves})
    return " · ".join([type(model).__name__, fmt.count(count), fmt.size(size), *devices])


def _of_data(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        first = value[0]
        return f"{len(first):,} samples" if _is_array(first) else f"{len(value):,} batches"
    kind, source = type(value).__name__, getattr(value, "dataset", value)
    return f"{kind} · {len(source):,} samples" if hasattr(source, "__len__") else kind
