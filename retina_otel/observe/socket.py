"""The client of an agent's socket: sends a request, yields the lines of the answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retina_otel.errors import RetinaError

DEFAULT_SOCKET = Path("/run/retina-otel/observe.sock")

_REMEDY = (
    "Is an agent running here, with the exporter `observe` in a logs pipeline? "
    "`--socket` names another socket"
)


def ask(path: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lines of an agent's answer. Raises RetinaError if there is no agent, or if it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            what = error.strerror or str(error)
            remedy = "Run it as root." if isinstance(error, PermissionError) else _REMEDY
            raise RetinaError(f"no agent answers at {path}: {what}", remedy) from error
        with connection.makefile("rb") as lines:
            for line in lines:
                yield checked(json.loads(line))


def checked(line: dict[str, Any]) -> dict[str, Any]:
    """A line of an answer. Raises RetinaError if it is a refusal."""
    if "error" in line:
        raise RetinaError(str(line["error"]), str(line.get("remedy", "")))
    return line
