"""Lines of the panel's list of clusters."""

from __future__ import annotations

from typing import Any

from ..compute.clusters import local_engine as resident
from ..compute.clusters import local_head as head
from ..compute.clusters.connect import Look
from ..core.device import physical_cores
from ..views import format as fmt

ASKING = "asking …"

_TITLES = {resident.CLUSTER: "this machine", head.NAME: "Ray on this machine"}


def title(name: str) -> str:
    """Return the title of a cluster for users."""
    return _TITLES.get(name, name)


def this_machine(running: int) -> dict[str, Any]:
    """Return the line of the machine that the server runs on."""
    cores = physical_cores()
    words = f"{cores} core{'s' * (cores != 1)}, {f'{running} running' if running else 'idle'}"
    return _line(resident.CLUSTER, "busy" if running else "idle", words)


def not_started() -> dict[str, Any]:
    """Return the line of this machine's own Ray cluster while it does not run."""
    return _line(head.NAME, "stopped", "not started", can_start=True)


def remote(name: str, look: Look | None, running: int) -> dict[str, Any]:
    """Return the line of a Ray cluster; ``look`` is None if it has not answered yet."""
    can_stop = name == head.NAME
    if look is None:
        return _line(name, "unreachable", ASKING, can_stop=can_stop)
    if look.trouble:
        return _line(name, "unreachable", "out of reach", look.trouble, can_stop=can_stop)
    words = [f"{look.nodes} node{'s' * (look.nodes != 1)}, {look.cpus:g} CPUs, {look.gpus:g} GPUs"]
    words[0] += f" ({', '.join(look.kinds)})" if look.kinds else ""
    words += [f"{running} running"] if running else []
    words += [f"{fmt.money(look.price)}/h"] if look.price is not None else []
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
