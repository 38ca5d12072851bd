"""One receiver in the agent: started, collected from, and started again when it fails.

Nothing that a receiver raises leaves this module: it becomes a state with a reason, counted. What
was counted meanwhile in the kernel is not lost by a failed collection: the next one covers the
window since the last that succeeded.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from retina_otel.agent.status import Key, StatusBoard
from retina_otel.component import Clock, Collected, Finishing, Receiver, State
from retina_otel.errors import KernelError, LoadError, RetinaError
from retina_otel.model.batches import Window

FAILURES_BEFORE_RESTART = 3
"""A receiver that raises this often in a row is closed and made anew."""
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 300.0
_FOR_GOOD = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT}
)
"""Errors of the kernel that trying again will not change: privilege, or a feature it lacks."""


class RunningReceiver:
    """Used by the tick thread only."""

    def __init__(
        self,
        key: Key,
        create: Callable[[], Receiver],
        clock: Clock,
        board: StatusBoard,
        measured: Callable[[str, float], None],
    ) -> None:
        """`measured(id, seconds)` is told how long each collection took."""
        self.key = key
        self.error: Exception | None = None
        """Why it does not run."""
        self._create = create
        self._clock = clock
        self._board = board
        self._measured = measured
        self._receiver: Receiver | None = None
        self._window_start_ns = 0
        self._failures_in_a_row = 0
        self._retry_s = FIRST_RETRY_S
        self._retry_at_ns: int | None = None
        self._own_reason = ""
        self._late = ""

    @property
    def id(self) -> str:
        return self.key[1]

    @property
    def running(self) -> bool:
        return self._receiver is not None

    def degraded(self, reason: str) -> None:
        """What the receiver itself says about missing parts (`Context.degraded`)."""
        self._own_reason = reason
        if self._receiver is not None and self._failures_in_a_row == 0:
            self._show()

    def start(self, window_start_ns: int) -> None:
        """Creates and starts it. On failure it stays down, and may be tried again later."""
        receiver: Receiver | None = None
        self._own_reason = self._late = ""
        try:
            receiver = self._create()
            receiver.start()
        except Exception as error:  # whatever it is, it must stay this receiver's own
            self._close(receiver)
            self._down(error)
            return
        self._receiver = receiver
        self._window_start_ns = window_start_ns
        self._failures_in_a_row = 0
        self._retry_at_ns = None
        self.error = None
        self._show()

    def retry_if_due(self, window_start_ns: int) -> None:
        if (
            self._receiver is None
            and self._retry_at_ns is not None
            and self._clock.monotonic_ns() >= self._retry_at_ns
        ):
            self.start(window_start_ns)

    def collect(self, end_ns: int, deadline_ns: int, hand_on: Callable[[Collected], None]) -> None:
        """Hands on what it has for the window that ends at `end_ns`, if it runs and does not fail.

        What `hand_on` can't use (a malformed batch) counts as the receiver's failure.
        """
        if self._receiver is None:
            return
        begun_ns = self._clock.monotonic_ns()
        try:
            collected = self._receiver.collect(Window(self._window_start_ns, end_ns), deadline_ns)
            ended_ns = self._clock.monotonic_ns()
            self._window_start_ns = end_ns
            hand_on(collected)
        except Exception as error:
            self._failed(error)
            return
        self._measured(self.id, (ended_ns - begun_ns) / 1e9)
        self._failures_in_a_row = 0
        self._retry_s = FIRST_RETRY_S
        late_ns = ended_ns - deadline_ns
        self._late = (
            f"a collection missed its deadline by {late_ns / 1e9:.2f} s" if late_ns > 0 else ""
        )
        self._show(failed=late_ns > 0)

    def finish(self, end_ns: int, hand_on: Callable[[Collected], None]) -> None:
        """Hands on what it held back, after its last collection."""
        receiver: object = self._receiver
        if not isinstance(receiver, Finishing):
            return
        try:
            hand_on(receiver.finish(Window(self._window_start_ns, end_ns)))
        except Exception as error:
            self._failed(error)

    def fds(self) -> Sequence[int]:
        if self._receiver is None:
            return ()
        try:
            return self._receiver.fds()
        except Exception as error:
            self._failed(error)
            return ()

    def ready(self, fd: int) -> None:
        if self._receiver is None:
            return
        try:
            self._receiver.ready(fd)
        except Exception as error:
            self._failed(error)

    def stop(self) -> None:
        self._close(self._receiver)
        self._receiver = None
        self._retry_at_ns = None
        self._board.set(self.key, State.STOPPED)

    def _show(self, *, failed: bool = False) -> None:
        reason = "; ".join(part for part in (self._own_reason, self._late) if part)
        state = State.DEGRADED if reason else State.RUNNING
        self._board.set(self.key, state, reason, failed=failed)

    def _failed(self, error: Exception) -> None:
        self._failures_in_a_row += 1
        self._board.set(self.key, State.DEGRADED, describe(error), failed=True)
        if self._failures_in_a_row >= FAILURES_BEFORE_RESTART:
            self._close(self._receiver)
            self._receiver = None
            self._down(error)

    def _down(self, error: Exception) -> None:
        self.error = error
        for_good = isinstance(error, KernelError) and error.errno in _FOR_GOOD
        if for_good:
            self._retry_at_ns = None
        else:
            self._retry_at_ns = self._clock.monotonic_ns() + int(self._retry_s * 1e9)
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
        log_tail = error.log_tail if isinstance(error, LoadError) else ""
        self._board.set(self.key, State.FAILED, describe(error), failed=True, detail=log_tail)

    def _close(self, receiver: Receiver | None) -> None:
        if receiver is None:
            return
        try:
            receiver.stop()
        except Exception as error:
            self._board.set(self.key, State.FAILED, f"can't be stopped: {describe(error)}")


def describe(error: Exception) -> str:
    """One line: the message and remedy of our own errors, the type's name before any other. The
    verifier's log is not in it."""
    if isinstance(error, RetinaError):
        text = RetinaError.__str__(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())
