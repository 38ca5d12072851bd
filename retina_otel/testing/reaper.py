"""Waits for the end of the process that made a lab, then removes what that left.

Runs in a session of its own, so that a lab whose owner is killed goes with it, and does not wait
for the next start. `python -m retina_otel.testing.reaper OWNER_PID`
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

from retina_otel.testing.namespaces import remove_strays


def start() -> subprocess.Popen[bytes]:
    """A reaper of what the calling process makes. End it when all of that is removed."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_and_remove(owner: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(owner)], [], [])
    remove_strays()


if __name__ == "__main__":
    _wait_and_remove(int(sys.argv[1]))
