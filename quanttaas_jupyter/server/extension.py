"""Registration of the routes at a Jupyter server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.utils import url_path_join

from . import cluster_routes, recipe_routes, study_routes
from .access_policy import AccessPolicy
from .settings import QuantTaaS
from .study_reader import StudyReader
from .thread_pool import Workers

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_ROUTES = (*study_routes.ROUTES, *cluster_routes.ROUTES, *recipe_routes.ROUTES)


def load(app: ServerApp) -> None:
    """Add the routes to a server."""
    policy = AccessPolicy(QuantTaaS(parent=app))
    reader = StudyReader(policy, Workers())
    base = url_path_join(app.web_app.settings["base_url"], "quanttaas")
    routes = [(f"{base}/{pattern}", handler, {"reader": reader}) for pattern, handler in _ROUTES]
    app.web_app.add_handlers(".*$", routes)
