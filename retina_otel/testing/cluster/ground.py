"""What a cluster stands on: its tag, its folder, its cgroup, its processes, and their end.

Everything of a cluster carries its tag, so it can be found and removed by whoever is left: by
`close`, by a reaper process when the owner is killed, or by the next start when both are.
"""

from __future__ import annotations

import socket

from retina_otel.testing import cgroups, reaper
from retina_otel.testing.cluster.process import Processes
from retina_otel.testing.namespaces import claim_tag, folder_of, release_tag, remove_strays


class Ground:
    """Made before anything of a cluster, closed after everything."""

    def __init__(self) -> None:
        remove_strays()
        self._reaper = reaper.start()
        self.tag = claim_tag()
        self.folder = folder_of(self.tag)
        self.processes = Processes(self.tag, self.folder / "logs")

    def end_processes(self) -> None:
        """Kills all that was started, and what that started: nothing of it is to be kept."""
        cgroups.remove(self.tag)
        self.processes.reap()

    def close(self) -> None:
        """Ends all processes and removes the folder. Namespaces must be gone."""
        self.end_processes()
        release_tag(self.tag)
        self._reaper.terminate()
        self._reaper.wait()


def free_ports(n: int) -> list[int]:
    """`n` TCP ports of 127.0.0.1 that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
