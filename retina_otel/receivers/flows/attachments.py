"""Follows the node's interfaces and keeps the flows programs attached where packets are counted.

Pod interfaces are counted from the pod's point of view, uplinks from the node's; every other
interface (bridges, tunnels, loopback) carries the same packets once more and is left alone.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt

from retina_otel.errors import AttachError, KernelError
from retina_otel.kernel.bpf import attach
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.receivers.flows.tables import LedgerCounts

_IFINDEX_MAX = 0x3FFFFF

Ledgers = Mapping[tuple[int, bool], LedgerCounts]


class Role(Enum):
    POD = "pod"
    UPLINK = "uplink"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which interfaces are which, by name patterns; None: by what the interface is."""

    pods: Sequence[str] | None
    uplinks: Sequence[str] | None
    exclude: Sequence[str]

    def role(self, interface: Interface) -> Role:
        if interface.loopback or _any(self.exclude, interface.name):
            return Role.NONE
        if self.uplinks is not None:
            if _any(self.uplinks, interface.name):
                return Role.UPLINK
        elif interface.default_route:
            return Role.UPLINK
        if self.pods is not None:
            return Role.POD if _any(self.pods, interface.name) else Role.NONE
        # A veth whose other end is in another namespace: a pod's, whatever made it.
        return Role.POD if interface.kind == "veth" and interface.peer_netnsid >= 0 else Role.NONE


@dataclass(slots=True)
class Attachment:
    interface: Interface
    role: Role
    links: list[attach.Link]
    came_later: bool
    """It appeared while we ran: what it carried before it was attached was missed."""
    base: Mapping[str, int] | None = None
    """The interface's own counters at the first tick after it was attached; from there on they and
    our ledger must agree."""
    ledger_base: Mapping[bool, LedgerCounts] = field(default_factory=dict)
    """What the ledger had of it at that moment, by egress hook."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An interface that should be counted and is not."""

    interface: Interface
    role: Role
    reason: str


class Names:
    """Of the interfaces that are attached, and of the last `kept` that were: rows, and flows that
    end later, may come after their interface has gone."""

    def __init__(self, kept: int = 4096) -> None:
        self.by_ifindex: dict[int, str] = {}
        self._kept = kept
        self._gone: dict[int, None] = {}

    def attached(self, ifindex: int, name: str) -> None:
        self.by_ifindex[ifindex] = name
        self._gone.pop(ifindex, None)

    def detached(self, ifindex: int) -> None:
        self._gone[ifindex] = None
        if len(self._gone) > self._kept:
            oldest = next(iter(self._gone))
            del self._gone[oldest], self.by_ifindex[oldest]


class Attachments:
    """One attachment for each interface that has a role. Used by the tick thread only."""

    def __init__(
        self,
        programs: Mapping[str, int],
        rules: Rules,
        *,
        position: Literal["first", "last"],
        hook: str,
        logger: logging.Logger,
        degraded: Callable[[str], None],
    ) -> None:
        self._programs = programs
        self._rules = rules
        self._position = position
        self._hook = hook
        self._logger = logger
        self._degraded = degraded
        self._failures: dict[int, _Failure] = {}
        self._following = False
        self._closed = False
        self._gone: set[int] = set()
        self._left_out: dict[int, Interface] = {}
        self.by_ifindex: dict[int, Attachment] = {}
        self._names = Names()
        self.uplinks: set[int] = set()
        """Of all that were ever attached: an ifindex keeps its role until the receiver stops."""
        self.before_attach_packets = 0
        """Packets that interfaces which came while we ran had carried before they were attached."""

    @property
    def names(self) -> Mapping[int, str]:
        """By ifindex, of interfaces that are attached or were lately."""
        return self._names.by_ifindex

    def on_change(self, change: Change) -> None:
        """A subscriber of the interface registry."""
        # A registry keeps its subscribers; descriptors of our programs may be others' by now.
        if self._closed:
            return
        interface = change.interface
        if change.kind is ChangeKind.REMOVED:
            self._detach(interface.ifindex)
            self._left_out.pop(interface.ifindex, None)
            if self._failures.pop(interface.ifindex, None):
                self._report()
            return
        role = self._rules.role(interface)
        if role is Role.POD and interface.ifindex in self._left_out:
            self._left_out[interface.ifindex] = interface
            return
        self._left_out.pop(interface.ifindex, None)
        known = self.by_ifindex.get(interface.ifindex)
        if known is not None and known.role is role:
            known.interface = interface
            self._names.attached(interface.ifindex, interface.name)
            return
        if known is not None:
            self._detach(interface.ifindex)
        if role is not Role.NONE:
            self._attach(interface, role, came_later=change.kind is ChangeKind.ADDED)

    def retry(self) -> None:
        """Tries again to attach where it failed: memory may be there by now."""
        for failure in list(self._failures.values()):
            self._attach(failure.interface, failure.role, came_later=True)

    def leave_out(self, ifindexes: Collection[int]) -> None:
        """Counts at pods' interfaces but these, whose pods are not observed. What was counted there
        so far is read with the generation that runs."""
        for ifindex in [one for one in self._left_out if one not in ifindexes]:
            self._attach(self._left_out.pop(ifindex), Role.POD, came_later=False)
        for ifindex in ifindexes:
            attachment = self.by_ifindex.get(ifindex)
            failure = self._failures.get(ifindex)
            known = attachment or failure
            if known is None or known.role is not Role.POD:
                continue
            self._left_out[ifindex] = known.interface
            self._detach(ifindex)
            if self._failures.pop(ifindex, None):
                self._report()

    def pods(self) -> npt.NDArray[np.uint32]:
        """The pods' interfaces: those that are counted, and those that are left out."""
        counted = [i for i, one in self.by_ifindex.items() if one.role is Role.POD]
        failed = [i for i, one in self._failures.items() if one.role is Role.POD]
        return np.array([*counted, *failed, *self._left_out], np.uint32)

    def followed_from_now(self) -> None:
        """The interfaces there were at the start are attached; those that come now are new."""
        self._following = True

    def take_bases(self, stats: Mapping[int, Interface], ledger: Ledgers) -> None:
        """Starts the comparison with the interfaces' counters for those attached since the last
        tick. Not done when attaching: a subscriber must not ask the registry to read."""
        for ifindex, attachment in self.by_ifindex.items():
            found = stats.get(ifindex)
            if attachment.base is not None or found is None or found.stats is None:
                continue
            attachment.base = found.stats
            attachment.ledger_base = {
                egress: ledger[ifindex, egress]
                for egress in (False, True)
                if (ifindex, egress) in ledger
            }
            if attachment.came_later:
                counted = sum(counts["buffers"] for counts in attachment.ledger_base.values())
                carried = sum(
                    found.stats.get(name, 0) for name in ("rx_packets", "tx_packets", "tx_dropped")
                )
                self.before_attach_packets += max(0, carried - counted)

    def uplink_array(self) -> npt.NDArray[np.uint32]:
        return np.array(sorted(self.uplinks), np.uint32)

    def gone(self) -> set[int]:
        """The ifindexes detached since the last call and not attached again."""
        gone, self._gone = self._gone - self.by_ifindex.keys(), set()
        return gone

    def close(self) -> None:
        self._closed = True
        for ifindex in list(self.by_ifindex):
            self._detach(ifindex)

    def _attach(self, interface: Interface, role: Role, *, came_later: bool) -> None:
        if interface.ifindex > _IFINDEX_MAX:
            reason = f"its index {interface.ifindex} does not fit into a flow's key"
            self._fail(_Failure(interface, role, reason))
            return
        if not interface.ethernet:
            reason = "its packets have no Ethernet header; name another in interfaces.uplinks"
            self._fail(_Failure(interface, role, reason))
            return
        kind = "host" if role is Role.UPLINK else "pod"
        links: list[attach.Link] = []
        try:
            for ingress, suffix in ((True, "in"), (False, "out")):
                program = self._programs[f"flows_{kind}_{suffix}"]
                links.append(self._attach_program(program, interface.ifindex, ingress))
        except KernelError as error:
            for link in links:
                link.close()
            self._fail(_Failure(interface, role, str(error)))
            return
        new = came_later and self._following
        self.by_ifindex[interface.ifindex] = Attachment(interface, role, links, new)
        self._names.attached(interface.ifindex, interface.name)
        if role is Role.UPLINK:
            self.uplinks.add(interface.ifindex)
        else:
            self.uplinks.discard(interface.ifindex)
        if self._failures.pop(interface.ifindex, None):
            self._report()
        self._logger.debug("attached to %s as %s", interface.name, role.value)

    def _attach_program(self, program: int, ifindex: int, ingress: bool) -> attach.Link:
        """By the chosen hook; "auto" settles on clsact where the kernel does not know tcx."""
        if self._hook != "clsact":
            try:
                return attach.tcx(program, ifindex, ingress, self._position)
            except AttachError as error:
                if self._hook == "tcx" or error.errno != errno.EINVAL:
                    raise
                self._hook = "clsact"
        return attach.clsact(program, ifindex, ingress, self._position, name="flows")

    def _detach(self, ifindex: int) -> None:
        attachment = self.by_ifindex.pop(ifindex, None)
        if attachment is None:
            return
        self._gone.add(ifindex)
        self._names.detached(ifindex)
        for link in attachment.links:
            link.close()

    def _fail(self, failure: _Failure) -> None:
        known = self._failures.get(failure.interface.ifindex)
        self._failures[failure.interface.ifindex] = failure
        if known is None or known.reason != failure.reason:
            self._report()

    def _report(self) -> None:
        self._degraded(
            "; ".join(
                f"{failure.interface.name} is not counted: {failure.reason}"
                for failure in self._failures.values()
            )
        )


def _any(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
