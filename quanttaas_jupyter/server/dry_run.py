"""Plan of a form's recipe, without model and data."""

from __future__ import annotations

from typing import Any

from ..core.errors import RecipeError
from ..core.recipe import Recipe
from ..core.records.study import StudyRecord
from ..core.understanding import Judging, Understanding
from ..planning.search import GOES_ON, first_plan
from .recipe_form import Form, recipe_problems, recipe_values

_METRIC = {"kind": "built-in", "name": "accuracy", "digest": "", "higher_is_better": True}


def plan(form: Form) -> dict[str, Any]:
    """Return the trials and stages that the form's recipe would run.

    Raises:
        RecipeError: The recipe is not valid.
    """
    for problem in recipe_problems(form):
        raise RecipeError(problem.text)
    recipe = Recipe.parse(recipe_values(form))
    is_search = recipe.search == "auto"
    names = ["eval", "calibration", *(["train"] if form.train else []), *(["guide"] if is_search else [])]
    made = first_plan(
        StudyRecord(
            id="",
            name="",
            created=0.0,
            cluster="",
            recipe=recipe.model_dump(mode="json"),
            model={"digest": ""},
            metric=_METRIC,
            understanding=Understanding(Judging("classification")),
            # Data sets get different digests, since equal ones would merge their stages.
            data={name: {"digest": name} for name in names},
        )
    )
    trials, stages = len(made.trials), len(made.stages)
    words = f"{trials} trial{'s' * (trials != 1)}, {stages} stage{'s' * (stages != 1)}"
    return {
        "trials": list(made.trials),
        "stages": stages,
        "words": f"{words} to begin with" if is_search else words,
        "notes": [GOES_ON] if is_search else [],
    }
