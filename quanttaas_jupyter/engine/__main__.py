"""``python -m quanttaas_jupyter.engine``: the resident engine of this machine."""

from __future__ import annotations

import logging

from ..config import load_config
from .resident import serve

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    serve(load_config())
