"""Requests about BPF filters on the clsact qdisc, and how ours are known among everybody's.

Each of ours carries in its name the token of its agent. No request here ever names a filter that
is not ours; a qdisc is removed only if we made it and it is empty.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from retina_otel.errors import KernelError
from retina_otel.kernel.net import netlink
from retina_otel.kernel.net.netlink import NLM_F_CREATE, NLM_F_EXCL, RouteSocket, attribute

NAME_PREFIX = "retina_otel"
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
INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
_ETH_P_ALL = socket.htons(3)
_DEFAULT_PRIORITY = 0x8000
_MAX_PRIORITY = 0xFFFF
_TC = struct.Struct("=BxHiIII")
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EINVAL})


class Filter(NamedTuple):
    """A BPF filter on an interface."""

    ifindex: int
    parent: int
    priority: int
    protocol: int
    handle: int
    name: str


def remove_of_token(token: str) -> int:
    """Removes the filters of one agent, dead or alive; how many. For its reaper."""
    with RouteSocket() as route:
        return sum(
            remove(route, ifindex, lambda name: token_of(name) == token)
            for ifindex in interfaces(route)
        )


def name_of(token: str, *, made_qdisc: bool, number: int, label: str) -> str:
    """What a filter of ours is called: whose it is, and whether the qdisc is ours too."""
    return ":".join((NAME_PREFIX, token, "q" if made_qdisc else "-", str(number), label))


def token_of(name: str) -> str | None:
    """Whose filter that is; none if it is not ours."""
    parts = name.split(":")
    return parts[1] if len(parts) == 5 and parts[0] == NAME_PREFIX else None


def made_qdisc(name: str) -> bool:
    """Was the qdisc made for this filter of ours?"""
    return name.split(":")[2] == "q" if token_of(name) is not None else False


def make_qdisc(route: RouteSocket, ifindex: int) -> bool:
    """Makes the clsact qdisc; false if there is one. Raises KernelError."""
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


def add(
    route: RouteSocket, prog_fd: int, hook: tuple[int, int], *, position: str, name: str
) -> None:
    """Adds a filter before ("first") or behind ("last") those at `hook`: an interface and a side.

    Raises KernelError.
    """
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


def remove(route: RouteSocket, ifindex: int, ours: Callable[[str], bool]) -> int:
    """Removes the filters whose name `ours` claims, and with them a qdisc of our making."""
    removed = 0
    made = False
    for one in filters_of(route, ifindex):
        if ours(one.name) and one.priority and one.handle:
            body = _TC.pack(
                0, 0, one.ifindex, one.handle, one.parent, one.priority << 16 | one.protocol
            )
            removed += _quietly(route, _RTM_DELTFILTER, body + attribute(_TCA_KIND, b"bpf\0"))
            made |= made_qdisc(one.name)
    if made:
        drop_empty_qdisc(route, ifindex)
    return removed


def drop_empty_qdisc(route: RouteSocket, ifindex: int) -> None:
    """Removes the clsact qdisc of an interface, if no filter is on it."""
    if not any(_dump(route, ifindex, parent) for parent in (INGRESS, EGRESS)):
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


def filters_of(route: RouteSocket, ifindex: int) -> list[Filter]:
    """The named BPF filters of an interface, both directions."""
    found: list[Filter] = []
    for parent in (INGRESS, EGRESS):
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


def interfaces(route: RouteSocket) -> list[int]:
    """The indices of all interfaces in the namespace of `route`."""
    messages = route.dump(_RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
    return [struct.unpack_from("=i", message.body, 4)[0] for message in messages]
