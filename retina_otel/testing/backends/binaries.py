"""Where the built backends are. `tools/build-backends` and `tools/build-collector` make them;
nothing is built here."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from retina_otel.errors import RetinaError

TOOLS = Path(__file__).parents[3] / "tools"


@functools.cache
def binary(name: str) -> str:
    """Path of prometheus, promtool, loki or kafka. Raises RetinaError if it is not built."""
    return _path("build-backends", "--path", name, target="backends")


@functools.cache
def collector_binary() -> str:
    """Path of the Collector of collector-config/builder.yaml. Raises RetinaError if it is not
    built."""
    return _path("build-collector", "--path", target="collector")


def _path(*command: str, target: str) -> str:
    tool = TOOLS / command[0]
    if not tool.exists():
        raise RetinaError("backends need a checkout of retina-otel", "Run it from a clone")
    answer = subprocess.run([tool, *command[1:]], capture_output=True, text=True, check=True)
    path = Path(answer.stdout.strip())
    if not path.exists():
        raise RetinaError(f"{path.name} is not built", f"Run `make {target}`")
    return str(path)
