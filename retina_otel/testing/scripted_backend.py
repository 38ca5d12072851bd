"""What every backend for tests does whatever its protocol: it answers as told, and keeps what came.

Requests get the answers of a script in turn, those after it the standing answer.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

A = TypeVar("A")
"""What it can be told to answer."""
R = TypeVar("R")
"""One request as it came."""


class ScriptedBackend(ABC, Generic[A, R]):
    """Serves from construction until `close()`; use it as a context manager."""

    def __init__(self, always: A) -> None:
        self._changed = threading.Condition()
        self._received: list[R] = []
        self._script: deque[A] = deque()
        self._always = always

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Its port refuses connections from then on. What came stays readable."""

    def script(self, *answers: A) -> None:
        """The next requests get these answers, in turn; those after get the standing one."""
        with self._changed:
            self._script.extend(answers)

    def always(self, answer: A) -> None:
        """The standing answer, success until this is called."""
        with self._changed:
            self._always = answer

    @property
    def received(self) -> list[R]:
        """All requests, in order of their arrival."""
        with self._changed:
            return list(self._received)

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Returns when `condition()` is true, which need not be about what came here: it is asked
        after each request and now and then. TimeoutError if it never is."""
        end = time.monotonic() + timeout_s
        while not condition():
            with self._changed:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"not within {timeout_s} s; {len(self._received)} requests came"
                    )
                self._changed.wait(min(left, 0.05))

    def next_answer(self) -> A:
        with self._changed:
            return self._script.popleft() if self._script else self._always

    def keep(self, received: R) -> None:
        with self._changed:
            self._received.append(received)
            self._changed.notify_all()
