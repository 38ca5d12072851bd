"""Waking: what the tick thread sleeps in until a tick is due: epoll over descriptors of others, and
an event by which any thread may wake it.

Edge-triggered: a descriptor that is not read empty waits for the tick, it can't spin.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Mapping
from types import TracebackType

from retina_otel.agent.logs import ROOT

logger = logging.getLogger(f"{ROOT}.agent")


class Waking:
    """A context manager of the tick thread; `wake` may be called by any thread, at any time."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll: select.epoll | None = None
        self._owners: dict[int, str] = {}

    def wake(self) -> None:
        os.eventfd_write(self._event, 1)

    def __enter__(self) -> Waking:
        self._poll = select.epoll()
        self._poll.register(self._event, select.EPOLLIN | select.EPOLLET)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None
        self._owners = {}

    def watch(self, owners: Mapping[int, str]) -> None:
        """From now on the descriptors of `owners`, and no others."""
        assert self._poll is not None
        for fd in self._owners.keys() - owners.keys():
            del self._owners[fd]
            try:
                self._poll.unregister(fd)
            except OSError:
                continue  # closed by its owner, which unregisters it
        for fd, owner in owners.items():
            try:
                # Also one that is known: its owner may have closed it, and opened another file.
                self._poll.register(fd, select.EPOLLIN | select.EPOLLET)
            except FileExistsError:
                if self._owners.get(fd) != owner:
                    self._poll.modify(fd, select.EPOLLIN | select.EPOLLET)
            except OSError as error:
                if self._owners.get(fd) != owner:
                    logger.warning("%s: descriptor %d can't be watched: %s", owner, fd, error)
            self._owners[fd] = owner

    def wait(self, seconds: float) -> list[tuple[str, int]]:
        """Owners and their descriptors that have become readable; none if nothing has in time, or
        somebody called `wake`."""
        assert self._poll is not None
        ready = []
        for fd, _ in self._poll.poll(seconds):
            if fd == self._event:
                os.eventfd_read(fd)
            elif fd in self._owners:
                ready.append((self._owners[fd], fd))
        return ready
