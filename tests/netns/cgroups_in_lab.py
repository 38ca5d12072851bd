"""Cgroups named as kubelets and runtimes name those of pods, with real processes in them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from retina_otel.testing.namespaces import Namespace, execute

V1_CONTROLLERS = ("pids", "freezer", "memory")
"""The first that is in no version 2 hierarchy is used."""


class Hierarchy:
    """A mounted cgroup hierarchy in which groups are made, and removed when it is closed."""

    def __init__(self, root: Path, mounted: bool) -> None:
        self.root = root
        self._mounted = mounted
        self._made: list[Path] = []

    def make(self, path: str) -> Path:
        """A group, and those above it that are missing."""
        wanted = self.root / path
        missing = [p for p in (wanted, *wanted.parents) if not p.exists()]
        for one in reversed(missing):
            one.mkdir()
            self._made.append(one)
        return wanted

    def close(self) -> None:
        for path in reversed(self._made):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()
        if self._mounted:
            execute(["umount", str(self.root)])
            self.root.rmdir()


@contextlib.contextmanager
def hierarchy(version: int) -> Iterator[Hierarchy]:
    """A hierarchy of version 1 or 2: the machine's, or mounted for the test."""
    made = Hierarchy(*_find(version))
    try:
        yield made
    finally:
        made.close()


def _find(version: int) -> tuple[Path, bool]:
    for line in Path("/proc/mounts").read_text().splitlines():
        _source, point, kind, options = line.split()[:4]
        if version == 2 and kind == "cgroup2":
            return Path(point), False
        if version == 1 and kind == "cgroup" and set(V1_CONTROLLERS) & set(options.split(",")):
            return Path(point), False
    point = tempfile.mkdtemp(prefix="rt-cgroup-")
    if version == 2:
        execute(["mount", "-t", "cgroup2", "none", point])
    else:
        execute(["mount", "-t", "cgroup", "-o", V1_CONTROLLERS[0], "none", point])
    return Path(point), True


def new_uid() -> str:
    return str(uuid.uuid4())


def new_container_id() -> str:
    return os.urandom(32).hex()


def cgroupfs(uid: str, container: str) -> str:
    """As the cgroupfs driver names a container's group."""
    return f"kubepods/burstable/pod{uid}/{container}"


def systemd(uid: str, container: str, runtime: str = "cri-containerd") -> str:
    """As the systemd driver does."""
    top = "kubepods.slice/kubepods-besteffort.slice"
    return f"{top}/kubepods-besteffort-pod{uid.replace('-', '_')}.slice/{runtime}-{container}.scope"


SLEEP = ("sh", "-c", "echo ready; exec sleep 3600")


def start(
    namespace: Namespace, group: Path | None = None, argv: Sequence[str] = SLEEP
) -> tuple[subprocess.Popen[bytes], str]:
    """A new process that is in the namespace and in the group, and the line by which `argv` said
    that it is ready."""
    enter = f"echo $$ >{shlex.quote(str(group / 'cgroup.procs'))} && " if group else ""
    ours, theirs = os.pipe()
    with open(ours) as said:
        process = namespace.popen(["sh", "-c", f'{enter}exec "$@"', "sh", *argv], stdout=theirs)
        os.close(theirs)
        line = said.readline()
    assert line, f"{argv} ended"
    return process, line.strip()
