"""Looks: the program that looks at the node's processes, loaded when somebody first asks."""

from __future__ import annotations

from retina_otel.errors import LoadError, RetinaError
from retina_otel.node.tasks import Look, TaskWalk


class Looks:
    """One for namespaces and sockets together. Used by one thread."""

    def __init__(self) -> None:
        self._walk: TaskWalk | None = None
        self._refused = False
        self.unavailable = ""
        """Why the last look failed, with the remedy; empty if it did not."""

    def take(self, *, sockets: bool) -> Look | None:
        """A fresh look. None where the kernel does not let us: `unavailable` says why."""
        if self._refused:
            return None
        try:
            if self._walk is None:
                self._walk = TaskWalk()
            look = self._walk.look(sockets=sockets)
        except RetinaError as error:
            # A program that was refused will be again; a look may fail for want of memory.
            self._refused = self._walk is None
            self.unavailable = f"the node's processes can't be looked at: {in_one_line(error)}"
            return None
        self.unavailable = ""
        return look

    def close(self) -> None:
        if self._walk is not None:
            self._walk.close()
            self._walk = None


def in_one_line(error: RetinaError) -> str:
    """Without the verifier's log."""
    return RetinaError.__str__(error) if isinstance(error, LoadError) else str(error)
