"""Cgroups of a lab: what is started in them, and all that it starts, ends with the lab.

A process may leave its network namespace, its session and its parent, but not its cgroup. The group
`/rt-<tag>` exists in every hierarchy that is mounted, version 1 or 2: container runtimes put pods
into all of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from retina_otel.errors import RetinaError

PREFIX = "rt-"
END_SECONDS = 10


def hierarchies() -> list[Path]:
    """Where cgroup hierarchies are mounted, each once."""
    found: dict[str, Path] = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        source, point, kind, options = line.split()[:4]
        if kind in ("cgroup", "cgroup2"):
            found.setdefault(f"{kind} {source} {options}", Path(point))
    return list(found.values())


def create(tag: str, name: str) -> list[Path]:
    """Makes `/rt-<tag>/<name>` in every hierarchy. Returns the folders."""
    folders = [root / f"{PREFIX}{tag}" / name for root in hierarchies()]
    if not folders:
        raise RetinaError("no cgroup hierarchy is mounted", "Mount cgroup2 at /sys/fs/cgroup")
    for folder in folders:
        # Each level of a cpuset needs its CPUs and memory before a process may enter.
        for level in (folder.parent, folder):
            level.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                _inherit(level, setting)
    return folders


def processes(tag: str) -> set[int]:
    """Pids of all that runs in the lab's groups."""
    return {pid for top in _tops(tag) for folder in _below(top) for pid in _members(folder)}


def remove(tag: str) -> None:
    """Kills all that runs in the lab's groups, then removes these. Raises RetinaError if it
    cannot."""
    deadline = time.monotonic() + END_SECONDS
    # What is killed may have forked a moment before.
    while found := processes(tag) - {os.getpid()}:
        if time.monotonic() > deadline:
            raise RetinaError(f"processes {sorted(found)} of lab {tag} do not end")
        _kill_all(found, deadline)
    for top in _tops(tag):
        for folder in reversed(list(_below(top))):
            _remove_folder(folder, deadline)


def _tops(tag: str) -> list[Path]:
    return [top for root in hierarchies() if (top := root / f"{PREFIX}{tag}").is_dir()]


def _below(top: Path) -> Iterator[Path]:
    """The folder and all below it, parents first."""
    for folder, _, _ in os.walk(top):
        yield Path(folder)


def _members(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    return []


def _inherit(folder: Path, setting: str) -> None:
    own, above = folder / setting, folder.parent / setting
    if own.exists() and above.exists() and not own.read_text().strip():
        own.write_text(above.read_text())


def _kill_all(pids: set[int], deadline: float) -> None:
    ends = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            end = os.pidfd_open(pid)
            ends.append(end)
            signal.pidfd_send_signal(end, signal.SIGKILL)
    for end in ends:
        select.select([end], [], [], max(0.0, deadline - time.monotonic()))
        os.close(end)


def _remove_folder(folder: Path, deadline: float) -> None:
    # The kernel lets go of a group a moment after its last process.
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RetinaError(f"{folder} cannot be removed: {error.strerror}") from error
            time.sleep(0.02)
