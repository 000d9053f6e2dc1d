"""Routes of clusters: list, start, stop, connect, and templates."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, Field

from ..compute.clusters import connect, local_engine, local_head
from ..compute.templates import TEMPLATES, TemplateOptions, render
from ..core import magic_line
from ..core.config import load_config
from . import cluster_list
from .handler import Handler, protected

_TEMPLATES = {
    "gce": "machines of Google Compute Engine, by ray up",
    "gke": "a cluster of Google Kubernetes Engine, by KubeRay",
    "vertex": "Ray on Vertex AI, by a short Python script",
    "docker": "the image of head and workers",
}
_FILES = {"gce": "cluster.yaml", "gke": "cluster.yaml", "vertex": "cluster.py", "docker": "Dockerfile"}
# Placeholders for users to replace, as the template's first lines say.
_EXAMPLE = {"project": "my-project", "zone": "us-central1-a", "bucket": "my-bucket"}


class _Start(BaseModel):
    cpus: int | None = Field(default=None, ge=1)


class _Stop(BaseModel):
    name: str


class _Connect(BaseModel):
    name: str
    address: str
    token_file: str | None = None
    store: str | None = None


class ClustersHandler(Handler):
    """Route of the list of clusters."""

    @protected
    async def get(self) -> None:
        """Return this machine, the clusters of the configuration, and templates for new ones."""
        reader, running = self.reader, self.reader.running()
        configured = {name: config for name, config in load_config().clusters.items() if reader.policy.allows(name)}
        is_up = local_head.NAME not in configured or local_head.find() is not None
        asked = (
            configured if is_up else {name: config for name, config in configured.items() if name != local_head.NAME}
        )
        statuses = await reader.cluster_statuses.all(asked)
        lines = (
            [cluster_list.this_machine(running[local_engine.CLUSTER])]
            if reader.policy.allows(local_engine.CLUSTER)
            else []
        )
        lines += [cluster_list.remote(name, status, running[name]) for name, status in statuses.items()]
        if local_head.NAME not in statuses and reader.policy.allows(local_head.NAME) and find_spec("ray"):
            lines.append(cluster_list.not_started())
        templates = [{"name": kind, "help": _TEMPLATES[kind]} for kind in TEMPLATES]
        self.finish({"clusters": lines, "templates": templates})


class StartHandler(Handler):
    """Route that starts a Ray cluster on this machine."""

    @protected
    async def post(self) -> None:
        """Start the cluster, and write it into the configuration."""
        cpus = self.body(_Start).cpus
        self.reader.policy.refuse_new_cluster(local_head.NAME)
        await self.reader.workers.run(f"cluster {local_head.NAME}", partial(connect.start, cpus=cpus))
        self.set_status(204)


class StopHandler(Handler):
    """Route that stops a cluster or an engine."""

    @protected
    async def post(self) -> None:
        """Stop this machine's own cluster, or this user's engine on another one."""
        name = self.body(_Stop).name
        self.reader.policy.cluster(name)
        await self.reader.workers.run(f"cluster {name}", partial(connect.stop, name))
        self.set_status(204)


class ConnectHandler(Handler):
    """Route that adds a cluster to the configuration."""

    @protected
    async def post(self) -> None:
        """Write the cluster into the configuration if it answers."""
        given = self.body(_Connect)
        policy = self.reader.policy
        policy.refuse_new_cluster(given.name)
        if given.store is not None:
            policy.refuse_new_store(given.store)
        values = given.model_dump(include={"token_file", "store"}, exclude_none=True)
        act = partial(connect.connect, given.name, given.address, {}, **values)
        await self.reader.workers.run(f"cluster {given.name}", act)
        self.set_status(204)


class TemplateHandler(Handler):
    """Route of the text of a template."""

    @protected
    async def get(self, kind: str) -> None:
        """Return the template and the cell that writes it, with the query's options, or examples if missing."""
        given = {name: self.get_query_argument(name, None) for name in TemplateOptions.model_fields}
        values = {**_EXAMPLE, **{name: value for name, value in given.items() if value is not None}}
        text = render(kind, values)
        options = {name: str(value) for name, value in values.items()}
        cell = magic_line.line("cluster", "template", kind, **options, out=_FILES[kind])
        self.finish({"text": text, "cell": cell})


ROUTES: tuple[tuple[str, type[Any]], ...] = (
    (r"clusters", ClustersHandler),
    (r"clusters/start", StartHandler),
    (r"clusters/stop", StopHandler),
    (r"clusters/connect", ConnectHandler),
    (r"clusters/template/([^/]+)", TemplateHandler),
)
