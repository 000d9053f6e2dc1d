"""Lines of the panel's list of clusters."""

from __future__ import annotations

from typing import Any

from ..compute.clusters import local_engine, local_head
from ..compute.clusters.connect import ClusterStatus
from ..core.device import physical_cores
from ..views import format as fmt

ASKING = "asking …"

_TITLES = {local_engine.CLUSTER: "this machine", local_head.NAME: "Ray on this machine"}


def title(name: str) -> str:
    """Return the title of a cluster for users."""
    return _TITLES.get(name, name)


def this_machine(running: int) -> dict[str, Any]:
    """Return the line of the machine that the server runs on."""
    cores = physical_cores()
    words = f"{cores} core{'s' * (cores != 1)}, {f'{running} running' if running else 'idle'}"
    return _line(local_engine.CLUSTER, "busy" if running else "idle", words)


def not_started() -> dict[str, Any]:
    """Return the line of this machine's own Ray cluster while it does not run."""
    return _line(local_head.NAME, "stopped", "not started", can_start=True)


def remote(name: str, status: ClusterStatus | None, running: int) -> dict[str, Any]:
    """Return the line of a Ray cluster; ``status`` is None if it has not answered yet."""
    can_stop = name == local_head.NAME
    if status is None:
        return _line(name, "unreachable", ASKING, can_stop=can_stop)
    if status.trouble:
        return _line(name, "unreachable", "out of reach", status.trouble, can_stop=can_stop)
    words = [f"{status.nodes} node{'s' * (status.nodes != 1)}, {status.cpus:g} CPUs, {status.gpus:g} GPUs"]
    words[0] += f" ({', '.join(status.kinds)})" if status.kinds else ""
    words += [f"{running} running"] if running else []
    words += [f"{fmt.money(status.price)}/h"] if status.price is not None else []
    return _line(name, "busy" if running else "up", " · ".join(words), can_stop=can_stop)


def _line(
    name: str, state: str, words: str, trouble: str = "", can_start: bool = False, can_stop: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title(name),
        "state": state,
        "words": words,
        "trouble": trouble,
        "can_start": can_start,
        "can_stop": can_stop,
    }
