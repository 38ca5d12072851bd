"""tc programs on the clsact qdisc, for kernels without tcx (before 6.6).

A clsact filter outlives the process that made it. So each of ours carries a token in its name,
which is alive while an abstract socket of that name is bound in the same network namespace. A
reaper child removes ours when the agent dies, and `remove_stray` at the next start what is left
even then.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
from contextlib import ExitStack
from typing import Literal

from retina_otel.errors import AttachError, KernelError
from retina_otel.kernel.net import reaper
from retina_otel.kernel.net.clsact_filters import (
    EGRESS,
    INGRESS,
    NAME_PREFIX,
    add,
    drop_empty_qdisc,
    filters_of,
    interfaces,
    made_qdisc,
    make_qdisc,
    name_of,
    remove,
    token_of,
)
from retina_otel.kernel.net.netlink import RouteSocket

_TOKEN = os.urandom(8).hex()
_numbers = itertools.count()
_lock = threading.Lock()


class ClsactLink:
    """A filter of ours. Closing it twice is allowed."""

    def __init__(self, presence: _Presence, ifindex: int, parent: int, name: str) -> None:
        self._presence: _Presence | None = presence
        self._ifindex = ifindex
        self._parent = parent
        self.name = name

    def __enter__(self) -> ClsactLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detaches. When the device is gone already, so is the filter: that is no error."""
        with _lock:
            presence, self._presence = self._presence, None
            if presence is not None:
                remove(presence.route, self._ifindex, lambda name: name == self.name)
                presence.release()


def attach(
    prog_fd: int,
    ifindex: int,
    ingress: bool,
    position: Literal["first", "last"] = "first",
    name: str = "",
) -> ClsactLink:
    """Attaches a tc program to an interface of the calling thread's namespace.

    "first" is before the filters there now, unless one holds priority 1: then beside it. Makes the
    clsact qdisc if there is none. Raises AttachError.
    """
    parent = INGRESS if ingress else EGRESS
    hook = f"clsact {'ingress' if ingress else 'egress'}"
    with _lock:
        try:
            presence = _Presence.here()
        except OSError as error:
            raise AttachError(
                hook,
                error.errno or errno.EIO,
                "Let the agent start a process: it removes the filters if the agent is killed",
                detail=f"interface {ifindex}: {error.strerror}",
            ) from error
        made = False
        try:
            made = make_qdisc(presence.route, ifindex) or presence.has_made(ifindex)
            full_name = name_of(_TOKEN, made_qdisc=made, number=next(_numbers), label=name)
            add(presence.route, prog_fd, (ifindex, parent), position=position, name=full_name)
        except KernelError as error:
            if made:
                drop_empty_qdisc(presence.route, ifindex)
            presence.release()
            raise AttachError(
                hook,
                error.errno,
                error.remedy or _remedy(error.errno),
                detail=f"interface {ifindex}",
            ) from error
    return ClsactLink(presence, ifindex, parent, full_name)


def remove_stray() -> int:
    """Removes filters that a dead agent left in the calling thread's namespace; how many.

    Those of a living one, and everybody else's, stay. Raises KernelError.
    """
    alive: dict[str, bool] = {_TOKEN: True}

    def stray(name: str) -> bool:
        token = token_of(name)
        if token is None:
            return False
        if token not in alive:
            alive[token] = _is_alive(token)
        return not alive[token]

    with RouteSocket() as route:
        return sum(remove(route, ifindex, stray) for ifindex in interfaces(route))


def try_out(prog_fd: int, ifindex: int) -> None:
    """Attaches in a namespace that will be gone with everything in it. Raises KernelError."""
    with RouteSocket() as route:
        make_qdisc(route, ifindex)
        name = name_of(_TOKEN, made_qdisc=True, number=0, label="try_out")
        add(route, prog_fd, (ifindex, INGRESS), position="first", name=name)


class _Presence:
    """Our sign of life in one network namespace, kept while a filter of ours is there."""

    _by_namespace: dict[int, _Presence] = {}  # noqa: RUF012

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self._links = 0
        with ExitStack() as made:
            self.route = made.enter_context(RouteSocket())
            self._mark = made.enter_context(_bind(_TOKEN))
            self._reaper = reaper.spawn(_TOKEN)
            made.pop_all()

    @classmethod
    def here(cls) -> _Presence:
        namespace = os.stat("/proc/thread-self/ns/net").st_ino
        presence = cls._by_namespace.get(namespace)
        if presence is None:
            presence = cls._by_namespace[namespace] = cls(namespace)
        presence._links += 1
        return presence

    def has_made(self, ifindex: int) -> bool:
        return any(
            made_qdisc(one.name) and token_of(one.name) == _TOKEN
            for one in filters_of(self.route, ifindex)
        )

    def release(self) -> None:
        self._links -= 1
        if self._links == 0:
            del self._by_namespace[self._namespace]
            self._reaper.dismiss()
            self._mark.close()
            self.route.close()


def _bind(token: str) -> socket.socket:
    # Bound to an abstract name: it exists in this network namespace until the process ends.
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        mark.bind(f"\0{NAME_PREFIX}.{token}")
    except OSError:
        mark.close()
        raise
    return mark


def _is_alive(token: str) -> bool:
    try:
        _bind(token).close()
    except OSError:
        return True
    return False


def _remedy(number: int) -> str:
    if number == errno.ENODEV:
        return "The interface is gone"
    if number == errno.EPERM:
        return "Give the process CAP_NET_ADMIN"
    return (
        "Check that the kernel has CONFIG_NET_SCHINGRESS and CONFIG_NET_CLS_BPF, and that no "
        "other tool holds the older ingress qdisc on this interface"
    )
