"""Logs as one JSON object a line."""

import json
import logging
import sys
import time
from typing import Any


class JsonLines(logging.Formatter):
    """Every record on one line, whatever a client has sent: JSON escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its ``fields``."""
        data: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None and record.exc_info[0] is not None:
            data["traceback"] = self.formatException(record.exc_info)
        return json.dumps(data, default=str)


def log_to_stderr() -> None:
    """Send our log, and what libraries warn of, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("simmap.server").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each bad form says nothing new
