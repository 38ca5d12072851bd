"""tc programs on the clsact qdisc, for kernels without tcx (before 6.6).

A clsact filter outlives the process that made it. So each of ours carries a token in its name,
which is alive while an abstract socket of that name is bound in the same network namespace. A
reaper child removes ours when the agent dies, and `remove_stray` at the next start what is left
even then. No request here ever names a filter that is not ours; a qdisc is removed only if we made
it and it is empty.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Literal, NamedTuple

from retina_otel.errors import AttachError, KernelError
from retina_otel.kernel import netlink, reaper
from retina_otel.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, RouteSocket, attribute

_NAME_PREFIX = "retina_otel"
_RTM_GETLINK = 18
_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_RTM_NEWTFILTER = 44
_RTM_DELTFILTER = 45
_RTM_GETTFILTER = 46
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_BPF_DIRECT_ACTION = 1
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT_PARENT = 0xFFFFFFF1
_INGRESS = 0xFFFFFFF2
_EGRESS = 0xFFFFFFF3
_ETH_P_ALL = socket.htons(3)
_DEFAULT_PRIORITY = 0x8000
_MAX_PRIORITY = 0xFFFF
_TC = struct.Struct("=BxHiIII")
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EINVAL})

_TOKEN = os.urandom(8).hex()
_numbers = itertools.count()
_lock = threading.Lock()


class Filter(NamedTuple):
    """A BPF filter on an interface."""

    ifindex: int
    parent: int
    priority: int
    protocol: int
    handle: int
    name: str


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
                _remove(presence.route, self._ifindex, lambda name: name == self.name)
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
    parent = _INGRESS if ingress else _EGRESS
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
            made = _make_qdisc(presence.route, ifindex) or presence.has_made(ifindex)
            full_name = ":".join(
                (_NAME_PREFIX, _TOKEN, "q" if made else "-", str(next(_numbers)), name)
            )
            _add(presence.route, prog_fd, (ifindex, parent), position=position, name=full_name)
        except KernelError as error:
            if made:
                _drop_empty_qdisc(presence.route, ifindex)
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
        token = _token(name)
        if token is None:
            return False
        if token not in alive:
            alive[token] = _is_alive(token)
        return not alive[token]

    with RouteSocket() as route:
        return sum(_remove(route, ifindex, stray) for ifindex in _interfaces(route))


def remove_of_token(token: str) -> int:
    """Removes the filters of one agent, dead or alive; how many. For its reaper."""
    with RouteSocket() as route:
        return sum(
            _remove(route, ifindex, lambda name: _token(name) == token)
            for ifindex in _interfaces(route)
        )


def try_out(prog_fd: int, ifindex: int) -> None:
    """Attaches in a namespace that will be gone with everything in it. Raises KernelError."""
    with RouteSocket() as route:
        _make_qdisc(route, ifindex)
        name = ":".join((_NAME_PREFIX, _TOKEN, "q", "0", "try_out"))
        _add(route, prog_fd, (ifindex, _INGRESS), position="first", name=name)


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
            _made_qdisc(one.name) and _token(one.name) == _TOKEN
            for one in _filters(self.route, ifindex)
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
        mark.bind(f"\0{_NAME_PREFIX}.{token}")
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


def _token(name: str) -> str | None:
    parts = name.split(":")
    return parts[1] if len(parts) == 5 and parts[0] == _NAME_PREFIX else None


def _made_qdisc(name: str) -> bool:
    return name.split(":")[2] == "q" if _token(name) is not None else False


def _make_qdisc(route: RouteSocket, ifindex: int) -> bool:
    body = _TC.pack(0, 0, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    try:
        route.request(
            _RTM_NEWQDISC, body + attribute(_TCA_KIND, b"clsact\0"), NLM_F_CREATE | NLM_F_EXCL
        )
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def _add(
    route: RouteSocket, prog_fd: int, hook: tuple[int, int], *, position: str, name: str
) -> None:
    ifindex, parent = hook
    options = (
        attribute(_TCA_BPF_FD, struct.pack("=I", prog_fd))
        + attribute(_TCA_BPF_NAME, name.encode() + b"\0")
        + attribute(_TCA_BPF_FLAGS, struct.pack("=I", _BPF_DIRECT_ACTION))
    )
    payload = attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS, options)
    taken = _priorities(route, ifindex, parent)
    refusal: KernelError | None = None
    for priority in _choices(taken, position):
        body = _TC.pack(0, 0, ifindex, 0, parent, priority << 16 | _ETH_P_ALL)
        try:
            route.request(_RTM_NEWTFILTER, body + payload, NLM_F_CREATE | NLM_F_EXCL)
            return
        except KernelError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal


def _choices(taken: set[int], position: str) -> Iterator[int]:
    # Never 0: the kernel would choose one itself, and after a filter at priority 1 it chooses 0,
    # which in a request to delete means every filter there is.
    if not taken:
        yield _DEFAULT_PRIORITY
    elif position == "last" and max(taken) < _MAX_PRIORITY:
        yield max(taken) + 1
    elif position == "last":
        yield _MAX_PRIORITY
    elif min(taken) > 1:
        yield min(taken) - 1
    else:
        yield 1  # refused if the filter there is of another kind or protocol
        yield next(number for number in itertools.count(2) if number not in taken)


def _remove(route: RouteSocket, ifindex: int, ours: Callable[[str], bool]) -> int:
    """Removes the filters whose name `ours` claims, and with them a qdisc of our making."""
    removed = 0
    made = False
    for one in _filters(route, ifindex):
        if ours(one.name) and one.priority and one.handle:
            body = _TC.pack(
                0, 0, one.ifindex, one.handle, one.parent, one.priority << 16 | one.protocol
            )
            removed += _quietly(route, _RTM_DELTFILTER, body + attribute(_TCA_KIND, b"bpf\0"))
            made |= _made_qdisc(one.name)
    if made:
        _drop_empty_qdisc(route, ifindex)
    return removed


def _drop_empty_qdisc(route: RouteSocket, ifindex: int) -> None:
    if not any(_dump(route, ifindex, parent) for parent in (_INGRESS, _EGRESS)):
        body = _TC.pack(0, 0, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        _quietly(route, _RTM_DELQDISC, body)


def _quietly(route: RouteSocket, kind: int, body: bytes) -> bool:
    """False where the thing, or its device, is gone already."""
    try:
        route.request(kind, body)
    except KernelError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def _dump(route: RouteSocket, ifindex: int, parent: int) -> list[netlink.Message]:
    try:
        return route.dump(_RTM_GETTFILTER, _TC.pack(0, 0, ifindex, 0, parent, 0))
    except KernelError as error:
        if error.errno not in _GONE:
            raise
        return []


def _filters(route: RouteSocket, ifindex: int) -> list[Filter]:
    """The named BPF filters of an interface, both directions."""
    found: list[Filter] = []
    for parent in (_INGRESS, _EGRESS):
        for message in _dump(route, ifindex, parent):
            _family, _, index, handle, _, info = _TC.unpack_from(message.body)
            top = dict(netlink.attributes(message.body, _TC.size))
            name = dict(netlink.attributes(top.get(_TCA_OPTIONS, b""))).get(_TCA_BPF_NAME)
            if index == ifindex and name and top.get(_TCA_KIND) == b"bpf\0":
                text = name.rstrip(b"\0").decode(errors="replace")
                found.append(Filter(ifindex, parent, info >> 16, info & 0xFFFF, handle, text))
    return found


def _priorities(route: RouteSocket, ifindex: int, parent: int) -> set[int]:
    return {_TC.unpack_from(message.body)[5] >> 16 for message in _dump(route, ifindex, parent)}


def _interfaces(route: RouteSocket) -> list[int]:
    messages = route.dump(_RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
    return [struct.unpack_from("=i", message.body, 4)[0] for message in messages]


def _remedy(number: int) -> str:
    if number == errno.ENODEV:
        return "The interface is gone"
    if number == errno.EPERM:
        return "Give the process CAP_NET_ADMIN"
    return (
        "Check that the kernel has CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, and that no "
        "other tool holds the older ingress qdisc on this interface"
    )
