"""From the stamps of flow rows to times: those of the kernel are jiffies."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import numpy.typing as npt

from retina_otel.component import Clock
from retina_otel.errors import KernelError
from retina_otel.kernel.bpf.jiffies import Anchor, JiffiesClock
from retina_otel.model.batches import Window
from retina_otel.receivers.flows.rows import FlowRows

_TICKS_LATE = 2
"""A stamp may be so much before its packet."""

Times = npt.NDArray[np.int64]


class Stamps:
    """Holds a loaded program until it is closed."""

    def __init__(self, clock: Clock) -> None:
        """Raises KernelError."""
        self._clock = clock
        self._jiffies = JiffiesClock()
        self._anchor = self._jiffies.anchor()

    @property
    def anchor(self) -> Anchor:
        return self._anchor

    def refresh(self) -> None:
        """Before the rows of a generation are told in time."""
        # An older anchor is nearly as good; an error here would lose what is drained already.
        with suppress(KernelError):
            self._anchor = self._jiffies.anchor()

    def wall(self, rows: FlowRows, window: Window) -> tuple[Times, Times]:
        """Wall time before the first and after the last packet of each row; of rows that have only
        flags, the window's."""
        offset_ns = self._clock.offset_ns()
        timed = rows.packets > 0
        first = self._anchor.monotonic(rows.first) + offset_ns
        late_ns = offset_ns + _TICKS_LATE * self._anchor.tick_ns
        last = self._anchor.monotonic(rows.last) + late_ns
        return np.where(timed, first, window.start_ns), np.where(timed, last, window.end_ns)

    def close(self) -> None:
        self._jiffies.close()
