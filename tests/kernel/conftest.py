"""Fixtures of tests on the kernel itself: the self-test object, and empty network namespaces."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from retina_otel.kernel.bpf import testrun
from retina_otel.kernel.bpf.maps import Variables
from retina_otel.kernel.net import netns
from retina_otel.loaders import core, objects
from retina_otel.loaders.base import Loaded

REFUSED = "rt_refused"
_numbers = itertools.count()


class SelfTest:
    """The self-test object, loaded."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.maps = loaded.maps
        self.programs = loaded.programs
        self.globals = Variables(loaded.maps[".bss"].fd, loaded.btf, ".bss")

    def ask(self, program: str, first: int = 0, count: int = 0, every: int = 0) -> int:
        """Runs one of its `syscall` programs with a `struct rt_selftest_request`."""
        request = struct.pack("=QQQ", first, count, every)
        return testrun.run(self.programs[program], context=request).retval


@pytest.fixture
def load() -> Iterator[Callable[..., SelfTest]]:
    """Loads the self-test object, as often as wanted, without the program that is refused."""
    made: list[Loaded] = []

    def one(**configuration: Any) -> SelfTest:
        loaded = core.load(objects.path("rt_selftest"), skip=[REFUSED], **configuration)
        made.append(loaded)
        return SelfTest(loaded)

    yield one
    for loaded in made:
        loaded.close()


@pytest.fixture
def selftest(load: Callable[..., SelfTest]) -> SelfTest:
    return load()


@pytest.fixture
def held() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`held(program, globals)`: the program runs on a CPU of its own while the block does."""
    return _held


@contextlib.contextmanager
def _held(prog_fd: int, values: Variables) -> Iterator[None]:
    # A kernel that does not preempt lets nothing else run where the program does.
    cpus = sorted(os.sched_getaffinity(0))

    def run() -> None:
        os.sched_setaffinity(0, cpus[-1:])
        testrun.run(prog_fd, bytes(64))

    runner = threading.Thread(target=run)
    runner.start()
    os.sched_setaffinity(0, cpus[:-1])
    try:
        while not int(values.rt_running):
            assert runner.is_alive()
        yield
        assert int(values.rt_running) == 1
    finally:
        values.rt_release[...] = 1
        os.sched_setaffinity(0, cpus)
        runner.join()


class Namespace:
    """A network namespace with loopback up."""

    def __init__(self) -> None:
        self.name = f"rt-kernel-{os.getpid()}-{next(_numbers)}"
        self.path = f"/run/netns/{self.name}"
        command("ip", "netns", "add", self.name)
        self.ip("link set lo up")

    def ip(self, arguments: str) -> str:
        return command("ip", "-n", self.name, *arguments.split())

    def tc(self, arguments: str) -> str:
        return command("tc", "-n", self.name, *arguments.split())

    def run(self, work: Callable[[], Any]) -> Any:
        return netns.run_in(self.path, work)

    def ifindex(self, name: str) -> int:
        return int(json.loads(self.ip(f"-j link show dev {name}"))[0]["ifindex"])

    def send(self, count: int) -> None:
        """Sends `count` datagrams over loopback to a socket that takes them: no answers."""

        def work() -> None:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            ):
                receiver.bind(("127.0.0.1", 0))
                for _ in range(count):
                    sender.sendto(b"x", receiver.getsockname())
                    receiver.recv(1)

        self.run(work)

    def close(self) -> None:
        command("ip", "netns", "del", self.name)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def command(*words: str) -> str:
    """What a command printed; it must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
