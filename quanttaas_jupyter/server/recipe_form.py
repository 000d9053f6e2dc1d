"""Form of a recipe: its validation, and the notebook cell that it stands for."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ..compute.clusters import open_cluster, store_for
from ..core import catalogue
from ..core.config import load_config
from ..core.errors import QuantTaaSError, RecipeError
from ..core.magic_line import variable, word
from ..core.recipe import Goal, Recipe, complaints, inline
from ..core.understanding import TASKS
from ..core.variable_names import check_variable, parse
from ..store import open_store
from ..techniques.availability import refuse_unavailable
from .access_policy import AccessPolicy

_Text = Annotated[str, Field(max_length=500)]
_Names = Annotated[list[_Text], Field(max_length=20)]

# Other characters would only be shown as escapes.
_NAME = re.compile(r"[\w.,:;/+=%@#!?~&*^|][\w .,:;/+=%@#!?~&*^|-]{0,79}")
_LABEL = re.compile(r"-?\w[\w.]*")
_FIELDS = {
    "prune": "amounts",
    "goal.minimize": "minimize",
    "goal.max_drop": "max_drop",
    "quantize": "quantize",
    "runtime": "runtime",
    "recover": "recover",
    "search": "search",
}


class Form(BaseModel):
    """Values of the panel's form; see ``Form`` in its ``types.ts``."""

    model_config = ConfigDict(extra="forbid")

    model: _Text = ""
    data: _Text = ""
    train: _Text = ""
    calibration: _Text = ""
    metric: _Text = ""
    task: _Text = ""
    labels: _Text = ""
    output: _Text = ""
    batch_dim: int | None = None
    ignore_label: int | None = None
    postprocess: _Text = ""
    method: _Text = "structured"
    amounts: list[float] = Field(default=[0.0, 0.3, 0.5], max_length=50)
    quantize: _Names = ["none", "fp16", "int8"]
    runtime: _Names = ["onnxruntime"]
    recover: _Text = "distill"
    minimize: _Text = "size"
    max_drop: float | None = Goal().max_drop
    search: _Text = "grid"
    cluster: _Text = ""
    store: _Text = ""
    name: _Text = ""
    out: _Text = "study"


class Problem(NamedTuple):
    """Sentence about a field of the form."""

    field: str
    text: str


def check(form: Form, policy: AccessPolicy) -> dict[str, Any]:
    """Return whether the form is valid, all problems, and the cell that it stands for."""
    problems = [*_problems_of_names(form), *recipe_problems(form), *_problems_of_place(form, policy)]
    return {
        "ok": not problems,
        "problems": [problem._asdict() for problem in problems],
        "cell": "" if problems else cell(form, policy),
    }


def recipe_values(form: Form) -> dict[str, Any]:
    """Return the recipe's values in the form, without defaults."""
    values: dict[str, Any] = {}
    # The amounts and precisions of the form belong to a grid; they must not bound an automatic search.
    if form.search != "auto":
        values = {"prune": _prunings(form), "quantize": form.quantize}
    if form.search != "grid":
        values["search"] = form.search
    if form.runtime != list(Recipe().runtime):
        values["runtime"] = form.runtime
    if form.recover not in ("", "distill"):
        values["recover"] = form.recover
    goal = {"minimize": form.minimize, "max_drop": form.max_drop}
    changed = {key: value for key, value in goal.items() if value != getattr(Goal(), key)}
    return {**values, **({"goal": changed} if changed else {})}


def recipe_problems(form: Form) -> Iterator[Problem]:
    """Yield all problems of the recipe in the form, in the recipe's own sentences."""
    values = recipe_values(form)
    if form.max_drop is None:
        yield Problem("max_drop", "give how much of the metric may be lost, such as 0.01")
        values = {**values, "goal": {"minimize": form.minimize}}
    wrong = set()
    for location, sentence in complaints(values):
        where = ".".join(str(part) for part in location[:2])
        is_method = location[:1] == ("prune",) and location[2:] == ("method",)
        field = "method" if is_method else _FIELDS.get(where) or _FIELDS[str(location[0])]
        wrong.add(field)
        yield Problem(field, sentence)
    yield from (problem for problem in _unbuilt(values, wrong) if problem.field not in wrong)


def cell(form: Form, policy: AccessPolicy) -> str:
    """Return the cell of the form; for a default recipe a line, since a cell magic must have a body."""
    options = {
        "--data": variable(form.data),
        "--calibration": variable(form.calibration),
        "--train": variable(form.train),
        "--metric": variable(form.metric),
        "--task": _worded(form.task),
        "--labels": _worded(",".join(_parts(form.labels))),
        "--output": _worded(form.output.strip()),
        "--batch-dim": _number(form.batch_dim),
        "--ignore-label": _number(form.ignore_label),
        "--postprocess": variable(form.postprocess),
        "--on": "" if form.cluster == policy.clusters()[0] else _worded(form.cluster),
        "--store": _worded(_store_option(form)),
        "--name": _worded(form.name.strip()),
        "-o": form.out,
    }
    words = [variable(form.model), *(f"{option} {value}" for option, value in options.items() if value)]
    values = recipe_values(form)
    if values == {"search": "auto"}:
        return f"%quanttaas compress {' '.join(words)}"
    width = max(map(len, values)) + 1
    lines = [f"{key + ':':<{width}} {inline(value)}" for key, value in values.items()]
    return "\n".join([f"%%quanttaas {' '.join(words)}", *lines])


def _prunings(form: Form) -> list[Any]:
    amounts = [round(amount, 6) for amount in form.amounts]
    if catalogue.follows_pattern(form.method):
        # A pattern has a fixed amount.
        return [0, form.method]
    if form.method == "structured":
        return [amount or 0 for amount in amounts]
    return [{"method": form.method, "amount": amount} if amount else 0 for amount in amounts]


def _unbuilt(values: dict[str, Any], wrong: set[str]) -> Iterator[Problem]:
    """Yield a problem for each field with a valid value that no technique implements."""
    plain: dict[str, Any] = {"prune": 0, "quantize": "none"}
    given = {"runtime": "runtime", "quantize": "quantize", "method": "prune"}
    runtime: dict[str, Any] = {}
    for field, key in given.items():
        if key not in values or {field, _FIELDS[key]} & wrong:
            continue
        try:
            refuse_unavailable(Recipe.parse({**plain, **runtime, key: values[key]}))
        except RecipeError as error:
            yield Problem(field, str(error))
        else:
            # The runtime decides which quantizations are implemented.
            runtime = {"runtime": values[key]} if key == "runtime" else runtime


def _problems_of_names(form: Form) -> Iterator[Problem]:
    if not form.model.strip():
        yield Problem("model", "choose the model: a variable of the notebook that holds one")
    if not form.data.strip():
        yield Problem("data", "choose the data that judges; without labels use the metric 'agreement'")
    for field in ("model", "data", "train", "calibration", "metric", "postprocess"):
        yield from _caught(field, partial(_refuse_signs, getattr(form, field)))
    if form.task and form.task not in TASKS:
        yield Problem("task", f"a task is one of {', '.join(TASKS)}")
    if any(not _LABEL.fullmatch(part) for part in _parts(form.labels)):
        yield Problem("labels", "labels are keys of a batch or positions in it, with commas between them")
    if form.output.strip() and not _LABEL.fullmatch(form.output.strip()):
        yield Problem("output", "the judged output is the name of an output or its position, such as logits or 0")
    if form.name.strip() and not _NAME.fullmatch(form.name.strip()):
        yield Problem("name", "a name has up to 80 letters, digits, blanks and simple signs; no quotes or brackets")
    if form.out:
        yield from _caught("out", lambda: check_variable(form.out))


def _problems_of_place(form: Form, policy: AccessPolicy) -> Iterator[Problem]:
    wrong = [*_caught("cluster", lambda: policy.cluster(form.cluster))] if form.cluster else []
    wrong += [*_caught("store", lambda: policy.store(open_store(form.store).uri))] if form.store else []
    yield from wrong
    if not wrong:
        yield from _caught("store", lambda: _refuse_far_store(form))


def _refuse_far_store(form: Form) -> None:
    cluster = open_cluster(form.cluster or None)
    cluster.refuse_store(open_store(store_for(cluster, form.store or None)).uri)


def _store_option(form: Form) -> str:
    usual = open_store(store_for(open_cluster(form.cluster or None), None) or load_config().store).uri
    given = open_store(form.store).uri if form.store else usual
    return "" if given == usual else given


def _refuse_signs(text: str) -> None:
    """Check that a field names a variable that can be read in a cell.

    Raises:
        QuantTaaSError: The text is more than a variable, or holds signs that a cell would only show as escapes.
    """
    for node in ast.walk(parse(text)) if text.strip() else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"[\w .-]*", node.value):
            raise QuantTaaSError(f"{text!r} holds signs that a line of a magic does not take; put it into a variable")


def _worded(text: str) -> str:
    """Return a text as a word of the line; an empty string if there is none."""
    return word(text) if text else ""


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _parts(labels: str) -> list[str]:
    """Keys or positions of targets, without the blanks around them."""
    return [part.strip() for part in labels.split(",") if part.strip()]


def _caught(field: str, act: Callable[[], object]) -> Iterator[Problem]:
    try:
        act()
    except QuantTaaSError as error:
        yield Problem(field, str(error))
