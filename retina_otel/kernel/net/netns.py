"""Network namespaces. setns(2) is per thread: work in another one gets a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from retina_otel.errors import KernelError
from retina_otel.kernel import syscall

CLONE_NEWNET = 0x40000000
OWN = "/proc/thread-self/ns/net"

Result = TypeVar("Result")


def run_in(namespace: str | int, work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, run inside a namespace given by path or descriptor.

    The thread ends afterwards; sockets and links that `work` makes stay in that namespace. Raises
    KernelError if the namespace can't be entered.
    """
    if isinstance(namespace, int):
        return _in_thread(lambda: syscall.setns(namespace, CLONE_NEWNET), work)
    fd = _open(namespace)
    try:
        return _in_thread(lambda: syscall.setns(fd, CLONE_NEWNET), work)
    finally:
        os.close(fd)


def run_in_new(work: Callable[[], Result]) -> Result:
    """As `run_in`, in an empty namespace that is gone afterwards."""
    return _in_thread(lambda: syscall.unshare(CLONE_NEWNET), work)


def inode(namespace: str | int) -> int:
    """What names a namespace for as long as it lives. Raises KernelError."""
    try:
        return (
            os.stat(namespace).st_ino if isinstance(namespace, str) else os.fstat(namespace).st_ino
        )
    except OSError as error:
        raise KernelError("stat", error.errno or 0, detail=str(namespace)) from error


def own_inode() -> int:
    """The namespace of the calling thread."""
    return inode(OWN)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            "open", error.errno or 0, "Check that the network namespace still exists", detail=path
        ) from error


def _in_thread(enter: Callable[[], None], work: Callable[[], Result]) -> Result:
    results: list[Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter()
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
