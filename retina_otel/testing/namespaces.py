"""Network namespaces of a lab: made, entered, counted and removed, also when their creator was
killed.

A namespace is named `rt-<tag>-<name>`. Before the first one of a tag exists, `/run/rt-<tag>.lab`
says which process made it, by pid and start time; the file goes after the last one. So whoever
finds a file whose process is gone may remove everything of that tag, and nothing else is ever
touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from retina_otel.errors import RetinaError
from retina_otel.kernel.net import netns
from retina_otel.testing import cgroups

T = TypeVar("T")

PREFIX = "rt-"
NAMESPACES = Path("/run/netns")
OWNERS = Path("/run")


@dataclass(frozen=True, slots=True)
class Counters:
    """What an interface itself counted, as `ip -s -s link` prints it. `after - before` is the
    change."""

    rx_packets: int
    rx_bytes: int
    rx_errors: int
    rx_dropped: int
    tx_packets: int
    tx_bytes: int
    tx_errors: int
    tx_dropped: int

    def __sub__(self, before: Counters) -> Counters:
        return Counters(
            *(getattr(self, f.name) - getattr(before, f.name) for f in fields(Counters))
        )


class Namespace:
    """One network namespace and the processes started in it. Made by a Lab."""

    def __init__(self, tag: str, short_name: str) -> None:
        self.short_name = short_name
        self.name = f"{PREFIX}{tag}-{short_name}"
        self.path = str(NAMESPACES / self.name)
        self._processes: list[subprocess.Popen[Any]] = []
        execute(["ip", "netns", "add", self.name])

    @property
    def inode(self) -> int:
        """What identifies the namespace to the kernel and to an agent."""
        return os.stat(self.path).st_ino

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread inside the namespace.

        A socket that it opens stays in this namespace and may be used from any thread afterwards.
        """
        return netns.run_in(self.path, function)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new socket of this namespace."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Only its network differs: mounts and /sys are the caller's."""
        return execute(self._enter(argv), check=check, stdin=stdin, timeout_s=timeout_s)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command that is stopped with the lab, if it has not ended by then."""
        process = subprocess.Popen(
            self._enter(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def ip(self, *lines: str) -> None:
        """Runs lines of `ip`, in one process: `ns.ip("link set lo up", "addr add ...")`."""
        execute(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def bridge(self, *lines: str) -> None:
        """Runs lines of `bridge`, in one process."""
        execute(["bridge", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def nft(self, rules: str) -> None:
        """Loads nftables rules."""
        self.run(["nft", "-f", "-"], stdin=rules)

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        """Sets keys below /proc/sys/net, written with slashes; a key that this kernel lacks is
        skipped."""

        def write() -> None:
            for key, value in values.items():
                with contextlib.suppress(FileNotFoundError):
                    Path("/proc/sys/net", key).write_text(f"{value}\n")

        self.call(write)

    def counters(self, interface: str) -> Counters:
        """The interface's own counters. Raises RetinaError if there is none of this name."""
        listing = execute(["ip", "-n", self.name, "-j", "-s", "link", "show", "dev", interface])
        stats = json.loads(listing.stdout)[0]["stats64"]
        return Counters(*(stats[f.name[:2]][f.name[3:]] for f in fields(Counters)))

    def interfaces(self) -> dict[str, int]:
        """Names and numbers of all interfaces there are now."""
        listing = execute(["ip", "-n", self.name, "-j", "link", "show"])
        return {link["ifname"]: link["ifindex"] for link in json.loads(listing.stdout)}

    def wait_until_up(self, *interfaces: str) -> None:
        """The kernel passes packets a moment after it was asked to. Raises RetinaError if it does
        not in 10 s."""
        deadline = time.monotonic() + 10
        while True:
            listing = json.loads(execute(["ip", "-n", self.name, "-j", "link", "show"]).stdout)
            up = {link["ifname"] for link in listing if link["operstate"] == "UP"}
            if up.issuperset(interfaces):
                return
            if time.monotonic() > deadline:
                down = ", ".join(sorted(set(interfaces) - up))
                raise RetinaError(f"{down} in {self.name} did not come up")
            time.sleep(0.01)

    def stop_processes(self) -> None:
        """Ends what `popen` started and still runs: SIGTERM, five seconds, SIGKILL."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + 5
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def remove(self) -> None:
        """Stops the processes in it, then removes it; its interfaces go with it."""
        if os.path.exists(self.path):
            self.stop_processes()
            _remove(self.name)

    def _enter(self, argv: Sequence[str]) -> list[str]:
        # nsenter and not `ip netns exec`, which gives the command a new /sys, and with it hides the
        # BPF file system, tracefs and the cgroups from an agent that is run this way.
        return ["nsenter", f"--net={self.path}", "--", *argv]


def execute(
    argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout_s: float = 30
) -> subprocess.CompletedProcess[str]:
    """Runs a command; with `check` a failure raises RetinaError with what the command said."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            # Ctrl-C is for us: what builds or removes a lab must not die half-way.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise RetinaError(f"the lab needs {argv[0]}", "Install iproute2, nftables") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise RetinaError(f"{' '.join(argv)} ended with {done.returncode}: {said}")
    return done


def claim_tag() -> str:
    """A new tag that this process owns, on record before anything of it exists."""
    tag = secrets.token_hex(3)
    owner = OWNERS / f"{PREFIX}{tag}.lab"
    draft = OWNERS / f".{PREFIX}{tag}.lab"
    draft.write_text(f"{os.getpid()} {_start_time(os.getpid())}\n")
    draft.rename(owner)
    folder_of(tag).mkdir(mode=0o700)
    return tag


def folder_of(tag: str) -> Path:
    """The directory of a lab's files."""
    return Path(tempfile.gettempdir(), f"{PREFIX}{tag}")


def release_tag(tag: str) -> None:
    """Removes the lab's directory, then the record of who made it."""
    shutil.rmtree(folder_of(tag), ignore_errors=True)
    (OWNERS / f"{PREFIX}{tag}.lab").unlink(missing_ok=True)


def remove_strays() -> list[str]:
    """Removes what killed processes left: their cgroups and namespaces, what runs in them, their
    owner files."""
    removed: list[str] = []
    for owner in OWNERS.glob(f"{PREFIX}*.lab"):
        try:
            pid, started = owner.read_text().split()
        except (FileNotFoundError, ValueError):
            continue
        if _start_time(int(pid)) == started:
            continue
        tag = owner.name.removeprefix(PREFIX).removesuffix(".lab")
        cgroups.remove(tag)
        for namespace in NAMESPACES.glob(f"{PREFIX}{tag}-*"):
            _remove(namespace.name)
            removed.append(namespace.name)
        release_tag(tag)
    return removed


def _remove(name: str) -> None:
    # A process that stays keeps the namespace alive without a name, where nobody finds it again.
    for pid in _processes_in(NAMESPACES / name):
        with contextlib.suppress(ProcessLookupError):
            _kill(pid)
    execute(["ip", "netns", "del", name], check=False)


def _processes_in(namespace: Path) -> list[int]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        inode = namespace.stat().st_ino
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == inode:
                        found.append(int(entry.name))
    return found


def _kill(pid: int) -> None:
    """Ends a process, which need not be a child of ours, and waits for its end."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5)
    finally:
        os.close(pidfd)


def _start_time(pid: int) -> str:
    """Clock ticks since boot at which the process started, "" if there is none or only its zombie:
    pids are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The command's name stands in parentheses and may hold spaces.
    fields_after_name = stat.rpartition(")")[2].split()
    return "" if fields_after_name[0] in "ZX" else fields_after_name[19]
