"""Checks of a recipe against the techniques that exist and the packages that are installed."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.errors import MissingDependency, RecipeError
from ..core.recipe import Recipe
from .prune import PRUNERS
from .quantize import QUANTIZERS
from .runtimes import RUNTIMES


def refuse_unavailable(recipe: Recipe) -> None:
    """Check that a technique implements each value of a recipe.

    A quantization is tried in the runtimes that support it. It is refused if no runtime does, and so is a runtime that
    supports none of the quantizations.

    Raises:
        RecipeError: A value is valid, but no technique implements it yet.
    """
    for runtime in recipe.runtime:
        if RUNTIMES.find(runtime) is None:
            raise RecipeError(f"runtime {runtime!r} is not built yet; built are {', '.join(RUNTIMES.keys())}")
        if not available_quantizations(recipe.quantize, runtime):
            raise _unbuilt(recipe.quantize[0], runtime)
    here = {name for runtime in recipe.runtime for name in available_quantizations(recipe.quantize, runtime)}
    missing = [name for name in recipe.quantize if name not in here]
    if missing and recipe.search == "grid":
        raise _unbuilt(missing[0], *recipe.runtime)
    aimed = [name for name in RUNTIMES.keys() if (entry := RUNTIMES.find(name)) and "targets" in entry.needs]  # noqa: SIM118
    if recipe.targets and not set(recipe.runtime).intersection(aimed):
        raise RecipeError(f"targets are for runtimes that build for GPUs ({', '.join(aimed)}); leave them out")
    for prune in recipe.prune:
        if prune.amount and PRUNERS.find(prune.method) is None:
            raise RecipeError(f"prune method {prune.method!r} is not built yet; built are {', '.join(PRUNERS.keys())}")


def _unbuilt(quantization: str, *runtimes: str) -> RecipeError:
    built = sorted({name for name, place in QUANTIZERS.keys() if place in runtimes})  # noqa: SIM118
    places = " or ".join(runtimes)
    return RecipeError(
        f"quantization {quantization!r} is not built yet for {places}; built are none, {', '.join(built)}"
    )


def refuse_missing(recipe: Recipe) -> None:
    """Check that the packages are installed that the recipe's techniques need.

    Under ``search: auto`` quantizations are not checked: those with missing packages are not proposed.

    Raises:
        MissingDependency: A package is missing; the message holds the pip command.
    """
    named = recipe.quantize if recipe.search == "grid" else ()
    keys = [(name, runtime) for runtime in recipe.runtime for name in named]
    methods = [prune.method for prune in recipe.prune if prune.amount]
    entries = [
        *map(RUNTIMES.find, recipe.runtime),
        *map(QUANTIZERS.find, keys),
        *map(PRUNERS.find, methods),
    ]
    for what, entry in zip((*recipe.runtime, *(name for name, _ in keys), *methods), entries, strict=True):
        if entry and entry.is_missing_packages():
            raise MissingDependency(f"{what} needs more packages: pip install 'quanttaas-jupyter[{entry.extra}]'")


def available_quantizations(names: Iterable[str], runtime: str) -> list[str]:
    """Return the quantizations among ``names`` that a runtime supports."""
    return [name for name in names if name == "none" or QUANTIZERS.find((name, runtime)) is not None]
