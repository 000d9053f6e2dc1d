"""Actions of ``%quanttaas cluster``: start, stop, connect, status and template."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.magic_arguments import argument

from ..compute.clusters import connect, local_engine, local_head
from ..compute.clusters.ray import RayCluster
from ..compute.templates import TEMPLATES, render
from ..core.config import ClusterConfig, load_config
from ..core.device import physical_cores
from ..core.errors import QuantTaaSError
from ..store import open_store
from ..study_store import records
from ..views import format as fmt

_UNNAMED = "cluster"
_HEADER = ("cluster", "state", "nodes", "CPUs", "GPUs", "running studies", "per hour")

_OF_TEMPLATES = {
    "project": "project on Google Cloud",
    "zone": "zone, such as us-central1-a",
    "gpu": "T4, L4 (the default) or A100",
    "max_workers": "GPU machines at most; there are none while nothing runs",
    "bucket": "bucket of the studies",
    "name": "name of the cluster",
    "image": "image of head and workers",
    "idle_minutes": "minutes without work after which a machine goes",
    "service_account": "account that workers run as",
    "head_service_account": "account that the head runs as",
    "python": "Python in the image; the notebook's by default",
    "torch": "torch in the image; the notebook's by default",
}

ARGUMENTS: tuple[Callable[[Any], Any], ...] = (
    argument("names", metavar="NAME", nargs="*", help="connect: [NAME] ADDRESS; stop, status: NAME; template: KIND"),
    argument("--cpus", type=int, metavar="N", help="start: processors of the cluster; connect: those of a stage"),
    argument("--gpus", type=float, metavar="SHARE", help="connect: share of a GPU that a training gets, such as 0.5"),
    argument("--max-slots", type=int, metavar="N", help="connect: stages at once; for clusters that grow"),
    argument("--token-file", metavar="FILE", help="connect: file that holds the cluster's token"),
    argument("--no-token", action="store_true", help="start: ask for no token"),
    argument("--store", metavar="URI", help="connect: where its studies live, such as gs://BUCKET/PREFIX"),
    *(
        argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=f"template: {what}")
        for name, what in _OF_TEMPLATES.items()
    ),
    argument("--on-demand", action="store_true", help="template: machines that Google does not take back"),
    argument("--out", metavar="FILE", help="template: file to write"),
)


def act(args: Namespace) -> str:
    """Carry out a line of ``%quanttaas cluster``, and return the text to print.

    Raises:
        QuantTaaSError: The action failed.
    """
    return _ACTIONS[args.action](args)


def _start(args: Namespace) -> str:
    config = connect.start(cpus=args.cpus, token=not args.no_token)
    return (
        f"A Ray cluster of this machine runs at {config.address}; use it with --on {local_head.NAME}, "
        "stop it with %quanttaas cluster stop. It outlives this kernel."
    )


def _stop(args: Namespace) -> str:
    name = args.names[0] if args.names else local_head.NAME
    was_there = connect.stop(name, args.store)
    if name == local_head.NAME:
        return "Stopped the Ray cluster of this machine." if was_there else "No Ray cluster of ours runs here."
    return (
        f"{'Ended' if was_there else 'There was no'} engine of yours on {name}. The machines stay: "
        "'ray down FILE' or the cloud's console takes them down."
    )


def _connect(args: Namespace) -> str:
    if not 1 <= len(args.names) <= 2:
        raise QuantTaaSError("connect takes [NAME] ADDRESS, such as: connect l4 http://127.0.0.1:8265")
    *names, address = args.names
    name = names[0] if names else _UNNAMED
    slot = {"cpus": args.cpus, "gpus": args.gpus}
    given = {"store": args.store, "token_file": args.token_file, "max_slots": args.max_slots}
    status = connect.connect(name, address, _known(slot), **_known(given))
    return f"Connected: {status.words}. Use it with --on {name}."


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _status(args: Namespace) -> str:
    config = load_config()
    if args.names:
        connect.configured(args.names[0])
    wanted = {name: config.clusters[name] for name in args.names} or config.clusters
    running = _running_studies(wanted)
    with ThreadPoolExecutor(8) as pool:
        remote = list(pool.map(lambda name: _row(name, wanted[name], running.get(name, 0)), wanted))
    state = "engine runs" if local_engine.is_alive() else "idle"
    here = Row(
        local_engine.CLUSTER, state, "1", str(physical_cores()), "", str(running.get(local_engine.CLUSTER, 0)), ""
    )
    rows = [_HEADER, *([] if args.names else [here.cells]), *(row.cells for row in remote)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    return "\n".join([*lines, *(row.trouble for row in remote if row.trouble)])


def _template(args: Namespace) -> str:
    kind = args.names[0] if args.names else "gce"
    given = {name: getattr(args, name) for name in _OF_TEMPLATES if getattr(args, name) is not None}
    text = render(kind, {**given, "spot": not args.on_demand})
    if args.out is None:
        return text
    path = Path(args.out).expanduser()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise QuantTaaSError(f"cannot write {path}: {error.strerror}") from None
    return f"Wrote {path}; its first lines say how to use it."


_ACTIONS: dict[str, Callable[[Namespace], str]] = {
    "start": _start,
    "stop": _stop,
    "connect": _connect,
    "status": _status,
    "template": _template,
}
ACTIONS = tuple(_ACTIONS)
KINDS = tuple(TEMPLATES)


@dataclass(frozen=True)
class Row:
    """Cluster in the table of the status; ``trouble`` is a sentence for below the table."""

    name: str
    state: str
    nodes: str = ""
    cpus: str = ""
    gpus: str = ""
    studies: str = ""
    price: str = ""
    trouble: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells in the order of the header."""
        return self.name, self.state, self.nodes, self.cpus, self.gpus, self.studies, self.price


def _row(name: str, config: ClusterConfig, running: int) -> Row:
    status = connect.status(RayCluster(name, config))
    if status.trouble:
        return Row(name, "out of reach", studies=str(running), trouble=status.trouble)
    gpus = " ".join([f"{status.gpus:g}", *status.kinds])
    price = "" if status.price is None else fmt.money(status.price)
    return Row(name, "up", str(status.nodes), f"{status.cpus:g}", gpus, str(running), price)


def _running_studies(clusters: Mapping[str, ClusterConfig]) -> dict[str, int]:
    """Return the number of running studies by cluster, from all stores that can be reached."""
    stores = {str(load_config().store), *(config.store for config in clusters.values() if config.store)}
    counts: dict[str, int] = {}
    for uri in stores:
        try:
            summaries = records.list_summaries(open_store(uri))
        except QuantTaaSError:
            continue
        for summary in summaries:
            if summary.status == "running":
                counts[summary.cluster] = counts.get(summary.cluster, 0) + 1
    return counts
