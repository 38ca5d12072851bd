"""The child that removes clsact filters of an agent that was killed.

It waits on a pipe whose other end only the agent holds, so it wakes up however the agent ends. It
runs in the network namespace in which it was started, imports neither numpy nor ctypes, and exits
when its work is done. It can't help when a whole container is killed: `clsact.remove_stray` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from retina_otel.kernel.net.reaper import main; main(sys.argv[2])"
)
_PATIENCE_S = 5.0


class Reaper:
    """A running child."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def dismiss(self) -> None:
        """Ends it, after nothing of ours is left; waits for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def spawn(token: str) -> Reaper:
    """Starts a reaper in the namespace of the calling thread."""
    return Reaper(
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    )


def main(token: str) -> None:
    """Waits for the end of its standard input, then removes the filters of `token`."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            continue
    from retina_otel.kernel.net import clsact_filters

    clsact_filters.remove_of_token(token)
