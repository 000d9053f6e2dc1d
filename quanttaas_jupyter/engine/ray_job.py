"""Resident engine as a job on a Ray cluster: claims studies signed by its user, and runs stages on the nodes."""

from __future__ import annotations

import json
import logging
import signal

from ..compute.clusters.ray import HELLO
from ..compute.executors.deduplicate import SharingExecutor
from ..compute.executors.ray import RayExecutor
from ..core import identity
from ..core.config import EngineConfig, Prices, SlotConfig
from ..core.versions import versions
from ..store import open_store
from . import worker
from .inbox import QueueInbox
from .logs import log_to_stdout
from .service import Resident


def serve(options: dict[str, object]) -> None:
    """Run the engine until it has been idle for long, or is told to stop.

    Args:
        options: ``cluster``, ``store`` (a URI), ``key`` (the user's public key), ``id`` (the engine's name in tickets),
            ``slot``, ``max_slots``, ``warm_seconds``, ``prices`` and ``engine``, as in ``ClusterConfig`` and
            ``EngineConfig``.
    """
    log_to_stdout()
    identity.rely_on_store()
    store = open_store(str(options["store"]))
    inbox = QueueInbox(store, str(options["cluster"]), str(options["key"]), str(options["id"]))
    try:
        inbox.tickets()
    except Exception as error:
        # The likeliest mistake on a new cluster is that its machines have no permission to read the bucket.
        print(HELLO + json.dumps({**versions(), "trouble": f"from the cluster, {error}"}), flush=True)
        raise SystemExit(1) from None
    print(HELLO + json.dumps(versions()), flush=True)
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    # ``ray.init`` installs a handler that ends this process at once.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prices = Prices.model_validate(options["prices"]) if options["prices"] else None
    workers = RayExecutor(
        worker.run,
        worker.prepare_on_cluster,
        SlotConfig.model_validate(options["slot"]),
        max_slots=options["max_slots"],  # type: ignore[arg-type]
        warm_seconds=float(options["warm_seconds"]),  # type: ignore[arg-type]
        prices=prices,
    )
    config = EngineConfig.model_validate(options["engine"])
    name = f"{options['cluster']}:{ray.get_runtime_context().get_job_id()}"
    Resident(config, inbox, SharingExecutor(workers), workers.warm, name).run()
    ray.shutdown()
