"""Routes of the recipe form: choices, validation, and plan."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..core.versions import __version__
from . import cluster_list, dry_run, form_choices
from .handler import Handler, protected
from .recipe_form import Form, check
from .study_routes import cannot_run

# Threads for work that reads sources of techniques, and the configuration.
_PLACE = "form"


class ServiceHandler(Handler):
    """Route of the server's capabilities."""

    @protected
    async def get(self) -> None:
        """Return version, stores and clusters, and the choices of the form."""
        policy, why_not = self.reader.policy, cannot_run()
        clusters = policy.clusters()
        offered = partial(form_choices.options, clusters[0] if clusters else "")
        self.finish(
            {
                "version": __version__,
                "stores": list(policy.stores()),
                "clusters": [{"name": name, "title": cluster_list.title(name)} for name in clusters],
                "can_run": not why_not,
                "why_not": why_not,
                "form": await self.reader.workers.shared("form", _PLACE, offered),
            }
        )


class ValidateHandler(Handler):
    """Route that validates the form."""

    @protected
    async def post(self) -> None:
        """Return all problems of the form, or the cell that it stands for."""
        self.finish(await self.reader.workers.run(_PLACE, partial(check, self.body(Form), self.reader.policy)))


class PlanHandler(Handler):
    """Route that plans the form's recipe."""

    @protected
    async def post(self) -> None:
        """Return trials and stages."""
        self.finish(await self.reader.workers.run(_PLACE, partial(dry_run.plan, self.body(Form))))


ROUTES: tuple[tuple[str, type[Any]], ...] = (
    (r"service", ServiceHandler),
    (r"recipe/validate", ValidateHandler),
    (r"recipe/plan", PlanHandler),
)
