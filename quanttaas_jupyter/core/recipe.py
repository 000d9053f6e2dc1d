"""Recipe: the configurations that a study tries, validated.

A recipe is YAML or a mapping. Its keys and values are the fields of ``Recipe``. A value that is valid, but that no
technique implements for the chosen runtime, is refused at submission (``techniques.availability``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from . import catalogue
from .errors import RecipeError, did_you_mean
from .records.trial import Pruning

IMPORTANCES = ("auto", "magnitude", "batchnorm", "taylor")
CALLABLE = "callable"
CALIBRATORS = ("auto", "minmax", "entropy", "percentile")


def _listed(value: Any) -> list[Any]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise ValueError("the list is empty; name at least one value, or leave the key out for the default")
    return items


def _one_of(value: Any, known: tuple[str, ...], what: str) -> str:
    if value in known:
        return str(value)
    hint = did_you_mean(value, known)
    raise ValueError(f"unknown {what} {_shown(value)}; {hint}{' ' if hint else ''}known are {', '.join(known)}")


def _share_of_parameters(value: Any) -> float:
    expected = "an amount is the share of the model's parameters to remove, in [0, 1)"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{expected}; {_shown(value)} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < 1:
        percent = f"; for {number:g} % write {number / 100:g}" if 1 < number < 100 else ""
        raise ValueError(f"{expected}; got {number:g}{percent}")
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prune(_Part):
    """One pruning: ``amount`` is the share of the model's parameters to remove, in [0, 1).

    The other options belong to structured pruning. ``importance`` ranks channels. ``scope`` compares them over all
    layers (``global``) or within each layer (``layer``). ``spread`` says how strongly the measured sensitivity of a
    layer changes its amount.
    """

    method: str = "structured"
    amount: float
    importance: str = "auto"
    scope: Literal["global", "layer"] = "global"
    spread: float = Field(default=0.0, ge=0, le=2, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _two_of_four(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and catalogue.follows_pattern(method := values.get("method")):
            if values.get("amount", 0.5) != 0.5:
                raise ValueError(f"{method} zeroes two weights of every four, so its amount is 0.5; leave it out")
            return {"amount": 0.5, **values}
        return values

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> Prune:
        given = [key for key in ("importance", "scope", "spread") if key in self.model_fields_set]
        changed = [key for key in given if getattr(self, key) != type(self).model_fields[key].default]
        if changed and self.method != "structured":
            raise ValueError(f"{changed[0]} belongs to structured pruning; {self.method} does not take it")
        return self

    @field_validator("importance", mode="before")
    @classmethod
    def _known_importance(cls, value: Any) -> Any:
        return _one_of(value, IMPORTANCES, "importance")

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: Any) -> Any:
        return _one_of(value, catalogue.names("prune"), "prune method")

    @field_validator("amount", mode="before")
    @classmethod
    def _share(cls, value: Any) -> float:
        return _share_of_parameters(value)

    @property
    def pruning(self) -> Pruning | None:
        """The pruning of the trials that try it; None if its amount is 0."""
        return Pruning(self.method, self.amount, self.importance, self.scope, self.spread) if self.amount else None


class Recover(_Part):
    """Recovery of accuracy after pruning; ``epochs`` and ``lr`` apply to methods that train.

    The method ``callable`` stands for a function of the notebook, ``recover(model, teacher, batches)``, which is
    uploaded separately from the recipe; ``name`` is the function's name.
    """

    method: str
    name: str | None = None
    epochs: int | None = Field(default=None, ge=1, strict=True)
    lr: float | None = Field(default=None, gt=0, strict=True, allow_inf_nan=False)

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: Any) -> Any:
        return value if value == CALLABLE else _one_of(value, catalogue.names("recover"), "recover method")

    @model_validator(mode="after")
    def _name_of_callable(self) -> Recover:
        if (self.method == CALLABLE) != (self.name is not None):
            raise ValueError(
                f"name a method ({', '.join(catalogue.names('recover'))}) or give a function of the notebook"
            )
        return self


class Goal(_Part):
    """Goal of a study: the smallest or fastest trial whose ``drop`` is at most ``max_drop``."""

    minimize: Literal["size", "latency"] = "size"
    max_drop: float = Field(default=0.01, ge=0, strict=True, allow_inf_nan=False)


class Latency(_Part):
    """Options of the latency measurement; ``threads`` None means all physical cores."""

    batch: int = Field(default=1, ge=1, strict=True)
    threads: int | None = Field(default=None, ge=1, strict=True)


class Budget(_Part):
    """Limits of a study: a number of trials, or minutes."""

    trials: int | None = Field(default=None, ge=1, strict=True)
    minutes: float | None = Field(default=None, gt=0, strict=True, allow_inf_nan=False)


GRID_PRUNE = (Prune(amount=0.0), Prune(amount=0.3), Prune(amount=0.5))
"""Prunings of ``search: grid`` where the recipe names none; chosen, not tuned."""
GRID_QUANTIZE = ("none", "fp16", "int8")
AUTO_PRUNE = (Prune(amount=0.0), Prune(amount=0.97))
"""Bounds of ``search: auto`` where the recipe names none; chosen, not tuned. A higher one allows smaller models."""


def proposed_quantizations() -> tuple[str, ...]:
    """Return the quantizations that ``search: auto`` may propose where the recipe names none."""
    return tuple(name for name, technique in catalogue.techniques("quantize").items() if technique.is_proposed)


class Recipe(_Part):
    """Configurations to try, validated. ``Recipe.parse`` accepts YAML, a path, a mapping or a Recipe.

    ``targets`` are GPU architectures, such as SM89, that TensorRT engines are built for ahead of time, without a GPU.

    Under ``search: grid`` each pruning is combined with each quantization. Under ``search: auto``, the default if the
    recipe names neither, ``prune`` bounds the amounts and ``quantize`` lists the quantizations that may be proposed.
    """

    prune: tuple[Prune, ...] = AUTO_PRUNE
    recover: Recover | None = None
    quantize: tuple[str, ...] = Field(default_factory=proposed_quantizations)
    calibrator: str = "auto"
    runtime: tuple[str, ...] = ("onnxruntime",)
    targets: tuple[str, ...] = ()
    goal: Goal = Goal()
    search: Literal["grid", "auto"] = "auto"
    latency: Latency = Latency()
    budget: Budget = Budget()
    ignore: tuple[str, ...] = ()
    max_samples: int = Field(default=10_000, ge=1, strict=True)
    max_bytes: int = Field(default=2 << 30, ge=1, strict=True)
    seed: int = Field(default=0, ge=0, lt=2**31, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_search(cls, values: Any) -> Any:
        """Fill in the search: a grid if the recipe names prunings or quantizations, otherwise the automatic search."""
        if not isinstance(values, Mapping):
            return values
        is_named = "prune" in values or "quantize" in values
        search = values.get("search", "grid" if is_named else "auto")
        if search == "grid":
            return {"prune": GRID_PRUNE, "quantize": GRID_QUANTIZE, "search": search, **values}
        return {"search": search, **values}

    @field_validator("prune", mode="before")
    @classmethod
    def _prunings(cls, value: Any) -> Any:
        return [_pruning(item) for item in _listed(value)]

    @field_validator("calibrator", mode="before")
    @classmethod
    def _known_calibrator(cls, value: Any) -> Any:
        return _one_of(value, CALIBRATORS, "calibrator")

    @field_validator("prune", "quantize", "runtime", "targets", mode="after")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("quantize", mode="before")
    @classmethod
    def _quantizations(cls, value: Any) -> Any:
        named = ["none" if item is None else item for item in _listed(value)]
        return [_one_of(item, catalogue.names("quantize"), "quantization") for item in named]

    @field_validator("runtime", mode="before")
    @classmethod
    def _runtimes(cls, value: Any) -> Any:
        return [_one_of(item, catalogue.names("runtime"), "runtime") for item in _listed(value)]

    @field_validator("targets", mode="before")
    @classmethod
    def _architectures(cls, value: Any) -> Any:
        named = [str(item).upper() for item in (value if isinstance(value, (list, tuple)) else [value])]
        wrong = [item for item in named if not re.fullmatch(r"SM\d{2,3}", item)]
        if wrong:
            raise ValueError(f"a target is a GPU architecture such as SM89, not {_shown(wrong[0])}")
        return named

    @field_validator("recover", mode="before")
    @classmethod
    def _recovery(cls, value: Any) -> Any:
        if callable(value):
            return {"method": CALLABLE, "name": getattr(value, "__name__", type(value).__name__)}
        return {"method": value} if isinstance(value, str) else value

    @field_validator("ignore", mode="before")
    @classmethod
    def _ignored(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @classmethod
    def parse(cls, source: Recipe | Mapping[str, Any] | str | Path | None) -> Recipe:
        """Read a recipe from YAML text, a file, a mapping, or None for the default.

        Raises:
            RecipeError: The recipe is not valid; one sentence says what is wrong and what was expected.
        """
        if source is None:
            return cls()
        if isinstance(source, Recipe):
            return source
        if isinstance(source, Path):
            try:
                source = source.read_text(encoding="utf-8")
            except OSError as error:
                raise RecipeError(f"the recipe file {source} cannot be read: {error.strerror or error}") from None
            except UnicodeDecodeError:
                raise RecipeError(f"the recipe file {source} cannot be read: it is not UTF-8 text") from None
        values = from_yaml(source) if isinstance(source, str) else source
        if not isinstance(values, Mapping):
            raise RecipeError(f"a recipe is a mapping such as 'prune: [0, 0.5]', but this is a {type(values).__name__}")
        _refuse_unknown_keys(values, cls.model_fields, "the recipe")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise RecipeError(_sentence(error.errors()[0])) from None

    def to_yaml(self) -> str:
        """Return the recipe as YAML that ``parse`` reads back; default values are left out."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        if self.quantize == proposed_quantizations():
            values.pop("quantize", None)
        if "prune" in values:
            values["prune"] = [_short_pruning(item) for item in self.prune]
        is_named = "prune" in values or "quantize" in values
        values.pop("search", None)
        if (self.search == "grid") != is_named:
            values["search"] = self.search
        for key in ("recover", "goal", "latency", "budget"):
            if isinstance(values.get(key), dict):
                values[key] = {k: v for k, v in values[key].items() if v is not None}
        return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None)) if values else ""


def recover_function(source: Any) -> Callable[..., Any] | None:
    """Return the function that a recipe given as a mapping names under ``recover``, or None."""
    value = source.get("recover") if isinstance(source, Mapping) else None
    return value if callable(value) else None


def _pruning(item: Any) -> Any:
    if isinstance(item, (Prune, Mapping)):
        return item
    return {"method": item} if catalogue.follows_pattern(item) else {"amount": item}


def _short_pruning(item: Prune) -> Any:
    if item == Prune(amount=item.amount):
        return item.amount
    return item.method if catalogue.follows_pattern(item.method) else item.model_dump(exclude_defaults=True)


class _Loader(yaml.SafeLoader):
    """YAML loader with the numbers of version 1.2: in 1.1 ``2:4`` is 124 (sexagesimal) and ``1e-3`` is a string."""


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes strings which version 1.1 or 1.2 of YAML would read as a number."""


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
    _yaml.add_implicit_resolver(
        _FLOAT,
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    )


def from_yaml(text: str) -> Any:
    """Read the YAML of a recipe without validating it; an empty text gives an empty mapping.

    Raises:
        RecipeError: The text is not valid YAML.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date that is none; RecursionError: thousands of nested brackets.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise RecipeError(f"the recipe is not valid YAML{where}: {problem}") from None
    return {} if values is None else values


def _refuse_unknown_keys(values: Mapping[str, Any], known: Any, where: str) -> None:
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known, f"known keys are {', '.join(known)}")
            raise RecipeError(f"unknown key {_shown(key)} in {where}; {hint}")


def complaints(values: Mapping[str, Any]) -> list[tuple[tuple[int | str, ...], str]]:
    """Return all errors of a recipe, each as its location and a sentence; an empty list if it is valid."""
    try:
        Recipe.model_validate(dict(values))
    except ValidationError as error:
        return [(problem["loc"], _sentence(problem)) for problem in error.errors()]
    return []


def inline(value: Any) -> str:
    """Return a value of a recipe as one line of YAML."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf)
    return str(text).removesuffix("...\n").strip()


def _sentence(first: ErrorDetails) -> str:
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        hint = did_you_mean(first["loc"][-1], known, f"known keys are {', '.join(known)}")
        return f"unknown key {_shown(first['loc'][-1])} in {'.'.join(map(str, first['loc'][:-1]))}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {_shown(first['input'])}"
    return f"{where}: {message}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "prune": Prune,
        "recover": Recover,
        "goal": Goal,
        "latency": Latency,
        "budget": Budget,
    }
    return list(parts[str(location[0])].model_fields) if location else list(Recipe.model_fields)
