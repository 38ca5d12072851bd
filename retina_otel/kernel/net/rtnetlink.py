"""InterfaceMonitor: follows the interfaces of one namespace, and tells subscribers what changed.

The kernel's notifications are a hint to look at one interface; when some were lost (ENOBUFS) all is
read again and compared, so that subscribers never miss a change, only its moment. Changes are told
when all that was read has been applied, so a subscriber may read itself: what it finds is told
after what it is being told.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from retina_otel.errors import KernelError
from retina_otel.kernel.net import links
from retina_otel.kernel.net.links import DefaultRoute, SpeedReader
from retina_otel.kernel.net.netlink import Message, RouteSocket
from retina_otel.model.interfaces import Change, ChangeKind, Interface

_GROUP_LINK = 1 << 0
_GROUP_IPV4_ADDRESS = 1 << 4
_GROUP_IPV4_ROUTE = 1 << 6
_GROUP_IPV6_ADDRESS = 1 << 8
_GROUP_IPV6_ROUTE = 1 << 10
_GROUPS = (
    _GROUP_LINK | _GROUP_IPV4_ADDRESS | _GROUP_IPV4_ROUTE | _GROUP_IPV6_ADDRESS | _GROUP_IPV6_ROUTE
)
_RECEIVE_BYTES = 1 << 20


class InterfaceMonitor:
    """The interfaces of the namespace of the thread that makes it (model.interfaces.
    InterfaceRegistry). All methods belong to one thread; call `poll` when `fd` is readable."""

    def __init__(self, receive_bytes: int = _RECEIVE_BYTES) -> None:
        """`receive_bytes` is the room for notifications not yet read. Raises KernelError."""
        # Listen first, read after: a change in between is then seen twice and not never.
        self._events = RouteSocket(_GROUPS, receive_bytes)
        self._requests = RouteSocket()
        self._speeds = SpeedReader()
        self._strict = RouteSocket(strict=True)
        self._subscribers: list[Callable[[Change], None]] = []
        self._links: dict[int, Interface] = {}
        self._addresses: dict[int, set[str]] = {}
        self._routes: set[DefaultRoute] = set()
        self._known: dict[int, Interface] = {}
        self._routes_changed = False
        self._untold: deque[Change] = deque()
        self._telling = False
        self.lost_notifications = 0
        """How often the kernel had to drop notifications, and all was read again."""
        self._read_all()

    def __enter__(self) -> InterfaceMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Readable when there is something for `poll`."""
        return self._events.fd

    def close(self) -> None:
        self._events.close()
        self._requests.close()
        self._strict.close()
        self._speeds.close()

    def current(self) -> Mapping[int, Interface]:
        """By ifindex, as of the last `poll`; `stats` is None."""
        return self._known

    def addresses_in(self, netnsid: int) -> Sequence[str]:
        """The addresses in another namespace (`Interface.peer_netnsid`); none if it is gone or the
        kernel does not tell."""
        try:
            return [found.text for found in links.dump_addresses_of(self._strict, netnsid)]
        except KernelError:
            return ()

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        """Calls back at once with ADDED for each interface there is, then from `poll`."""
        for interface in self._known.values():
            callback(Change(ChangeKind.ADDED, interface))
        self._subscribers.append(callback)

    def unsubscribe(self, callback: Callable[[Change], None]) -> None:
        """No call comes after this. Unknown callbacks are no error."""
        if callback in self._subscribers:
            self._subscribers.remove(callback)

    def read_stats(self) -> Mapping[int, Interface]:
        """A fresh dump, with `stats` set. Also tells subscribers of what it finds changed.

        Raises KernelError."""
        self.poll()
        fresh = links.dump_links(self._requests)
        # One that is missing here has just gone: its last values come with its notification.
        for link in fresh.values():
            self._keep(link)
        self._publish()
        return {
            ifindex: replace(self._known[ifindex], stats=link.stats)
            for ifindex, link in fresh.items()
        }

    def poll(self) -> None:
        """Takes what the kernel has said, without waiting. Raises KernelError."""
        try:
            messages = self._events.pending()
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise KernelError("recv(AF_NETLINK)", error.errno or errno.EIO) from error
            self.lost_notifications += 1
            # What is still queued is older than what was lost: applied after a fresh reading it
            # would bring back what is gone.
            self._events.discard_pending()
            self._read_all()
            return
        ways_out = {route.ifindex for route in self._routes}
        for message in messages:
            self._apply_address(message)
            self._routes_changed |= links.is_default_route(message)
            # IPv4 routes go silently when their interface does.
            link = links.parse_link(message)
            if link is not None:
                self._apply_link(message, link)
                self._routes_changed |= link.ifindex in ways_out
        changed = bool(messages) or self._routes_changed
        if self._routes_changed:
            self._routes = links.dump_default_routes(self._requests)
            # Only now: what could not be read is read at the next poll.
            self._routes_changed = False
        if changed:
            self._publish()

    def _read_all(self) -> None:
        addresses: dict[int, set[str]] = {}
        found = links.dump_links(self._requests)
        for ifindex, text in links.dump_addresses(self._requests):
            addresses.setdefault(ifindex, set()).add(text)
        self._routes = links.dump_default_routes(self._requests)
        self._addresses = addresses
        self._update_links(found)

    def _update_links(self, fresh: Mapping[int, Interface]) -> None:
        for ifindex in self._links.keys() - fresh.keys():
            self._drop(ifindex, None)
        for link in fresh.values():
            self._keep(link)
        self._publish()

    def _apply_link(self, message: Message, link: Interface) -> None:
        if message.type == links.RTM_DELLINK:
            self._drop(link.ifindex, link.stats)
        else:
            self._keep(link)

    def _apply_address(self, message: Message) -> None:
        address = links.parse_address(message)
        if address is None:
            return
        if message.type == links.RTM_NEWADDR:
            self._addresses.setdefault(address.ifindex, set()).add(address.text)
        else:
            self._addresses.get(address.ifindex, set()).discard(address.text)

    def _keep(self, link: Interface) -> None:
        self._links[link.ifindex] = replace(link, stats=None)

    def _drop(self, ifindex: int, last_stats: Mapping[str, int] | None) -> None:
        link = self._links.pop(ifindex, None)
        self._addresses.pop(ifindex, None)
        gone = self._known.pop(ifindex, None)
        if gone is None and link is not None:
            # It came and went between two polls: what it counted is told all the same.
            gone = link
            self._untold.append(Change(ChangeKind.ADDED, link))
        if gone is not None:
            self._untold.append(Change(ChangeKind.REMOVED, replace(gone, stats=last_stats)))

    def _publish(self) -> None:
        """Compares what is known now with what subscribers were told last."""
        main = {route.ifindex for route in self._routes if route.main}
        others = {route.ifindex for route in self._routes if not route.main}
        for ifindex, link in self._links.items():
            before = self._known.get(ifindex)
            now = replace(
                link,
                addresses=tuple(sorted(self._addresses.get(ifindex, ()))),
                # Clouds give second network cards tables of their own; tables that lead into
                # virtual devices are somebody's plumbing, not a way out.
                default_route=ifindex in main or (ifindex in others and not link.kind),
                speed_mbps=before.speed_mbps if before is not None else -1,
            )
            if before is None or now != before:
                now = replace(now, speed_mbps=self._speeds.mbps(link.name))
            if now != before:
                self._known[ifindex] = now
                kind = ChangeKind.ADDED if before is None else ChangeKind.CHANGED
                self._untold.append(Change(kind, now))
        self._tell()

    def _tell(self) -> None:
        """Raises what a subscriber raised, after all of them have heard everything."""
        if self._telling:
            return
        self._telling = True
        failures: list[Exception] = []
        try:
            while self._untold:
                change = self._untold.popleft()
                for callback in self._subscribers:
                    try:
                        callback(change)
                    except Exception as error:
                        failures.append(error)
        finally:
            self._telling = False
        if failures:
            raise failures[0]
