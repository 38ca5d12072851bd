"""The agent's own log: one line a record on standard error, for people or for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

from retina_otel.config.settings import LogEncoding, LogsSettings

ROOT = "retina_otel"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn"}
_COLOURS = {"debug": "2", "info": "32", "warn": "33", "error": "31"}


def logger_for(kind: str, id_: str) -> logging.Logger:
    """The logger of a component, for example `retina_otel.receiver.flows`."""
    return logging.getLogger(f"{ROOT}.{kind}.{id_}")


def set_up(settings: LogsSettings, stream: TextIO | None = None) -> None:
    """Replaces what an earlier call set up. Comes before gRPC's library is loaded, which otherwise
    writes lines of its own about each handshake that fails."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if settings.encoding is LogEncoding.JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ConsoleFormatter(colours=stream.isatty()))
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[settings.level])
    root.propagate = False


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123 info  receiver.flows  message`."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = _level(record)
        shown = f"\x1b[{_COLOURS[level]}m{level:5}\x1b[0m" if self._colours else f"{level:5}"
        name = record.name.removeprefix(f"{ROOT}.")
        text = f"{moment}.{int(record.msecs):03} {shown} {name}  {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """The fields of an OpenTelemetry log record, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "timestamp": f"{moment}.{int(record.msecs):03}Z",
            "severity": _level(record),
            "scope": record.name,
            "body": record.getMessage(),
        }
        if record.exc_info:
            fields["exception.stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, "error" if record.levelno > logging.WARNING else "debug")
