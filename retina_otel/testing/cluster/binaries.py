"""Where the built Kubernetes is. `tools/build-kubernetes` makes it; nothing is built here."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from retina_otel.errors import RetinaError

BUILD = Path(__file__).parents[3] / "tools" / "build-kubernetes"


@functools.cache
def folder() -> Path:
    """The folder that holds `bin`, `node` and `versions`."""
    if not BUILD.exists():
        raise RetinaError("the cluster needs a checkout of retina-otel", "Run it from a clone")
    answer = subprocess.run([BUILD, "--path"], capture_output=True, text=True, check=True)
    return Path(answer.stdout.strip()).parent


def binary(name: str) -> str:
    """Path of a program of Kubernetes, etcd, CoreDNS or Helm. Raises RetinaError if it is not
    built."""
    return _existing(folder() / "bin" / name)


def node_file(path: str) -> str:
    """Path of a file of the node's packages (containerd, runc, CNI plugins, busybox)."""
    return _existing(folder() / "node" / path)


def _existing(path: Path) -> str:
    if not path.exists():
        raise RetinaError(f"{path.name} is not built", "Run `make kubernetes`")
    return str(path)
