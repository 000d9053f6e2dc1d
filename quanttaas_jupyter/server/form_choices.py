"""Choices of the recipe form, with a line of help for each; only those that a technique implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import catalogue
from ..core.catalogue import Kind
from ..core.understanding import TASKS
from ..techniques.quantize import QUANTIZERS
from .recipe_form import Form

_SEARCHES = {
    "grid": "every pruning with every quantization",
    "auto": "sensitivity of layers first, then trials that lead to the goal",
}
_MINIMIZE = {"size": "bytes of the file", "latency": "time of one call"}
_METRICS = (
    "accuracy",
    "r2",
    "agreement",
    "f1_score",
    "auroc",
    "miou",
    "perplexity",
    "map",
    "psnr",
    "mean_squared_error",
)


def options(cluster: str) -> dict[str, Any]:
    """Return the choices and the default values of the form on a cluster; the first call imports all techniques."""
    return {
        "quantizations": [
            {"name": name, "help": technique.help, "runtimes": found}
            for name, technique in catalogue.techniques("quantize").items()
            if (found := _runtimes_of(name))
        ],
        "methods": [
            {"name": name, "help": technique.help, "has_amounts": technique.has_amounts}
            for name, technique in catalogue.techniques("prune").items()
        ],
        "runtimes": _described("runtime"),
        "searches": _choices(_SEARCHES),
        "recoveries": _described("recover"),
        "metrics": list(_METRICS),
        "tasks": _choices(TASKS),
        "minimize": _choices(_MINIMIZE),
        "start": Form(cluster=cluster).model_dump(),
    }


def _runtimes_of(quantization: str) -> list[str]:
    pairs = QUANTIZERS.keys()
    return [name for name in catalogue.names("runtime") if quantization == "none" or (quantization, name) in pairs]


def _described(kind: Kind) -> list[dict[str, str]]:
    known = catalogue.techniques(kind)
    return [{"name": name, "help": known[name].help} for name in catalogue.names(kind)]


def _choices(helps: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "help": line} for name, line in helps.items()]
