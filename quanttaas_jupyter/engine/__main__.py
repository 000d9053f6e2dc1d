"""Command ``python -m quanttaas_jupyter.engine``: the engine of this machine, or with options that of a cluster."""

from __future__ import annotations

import json
import sys

from ..core.config import load_config
from .logs import log_to_stdout

if __name__ == "__main__":
    if len(sys.argv) > 1:
        from . import ray_job

        ray_job.serve(json.loads(sys.argv[1]))
    else:
        from .service import serve

        log_to_stdout()
        serve(load_config())
