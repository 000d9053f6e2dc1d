"""Logs as JSON lines with the fields of Google Cloud Logging (severity, message, time) and a few of this package.

https://cloud.google.com/logging/docs/structured-logging
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
from datetime import datetime, timezone

STUDY: contextvars.ContextVar[str] = contextvars.ContextVar("study", default="")
"""Id of the study that this thread drives."""

_FIELDS = ("trial", "stage")
_SECRET = re.compile(r"(Bearer\s+|token[=:]\s*|(?:X-Goog-Signature|access_token)=)[^\s&\"']+", re.IGNORECASE)


class JsonLines(logging.Formatter):
    """Formatter with one JSON object per record: ``severity``, ``message``, ``time``, ``logger`` and study fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON, with tokens and signatures masked."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        values = {
            "severity": record.levelname,
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "message": _SECRET.sub(r"\1***", text),
            "logger": record.name,
            "study": STUDY.get(),
            **{name: getattr(record, name, "") for name in _FIELDS},
        }
        return json.dumps({name: value for name, value in values.items() if value})


def log_to_stdout() -> None:
    """Log to standard output as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
