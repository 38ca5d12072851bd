"""RowFacts: one small fact of each endpoint, as a column over rows of the EndpointTable.

Worked out once a row, and again when the table says that the row means something else. Tick thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointTable

_NOT_MET = np.iinfo(np.int32).min

_Column = npt.NDArray[np.int32]


class RowFacts:
    """`fact` gives a number of 32 bits for an endpoint; not the lowest one."""

    def __init__(self, table: EndpointTable, fact: Callable[[Endpoint], int]) -> None:
        self._table = table
        self._fact = fact
        self._epoch = -1
        self._known: _Column = np.zeros(0, np.int32)

    def of(self, rows: npt.NDArray[np.int32]) -> _Column:
        """The fact of each row's endpoint."""
        if self._table.epoch != self._epoch:
            self._refresh()
        facts: _Column = self._known[rows]
        not_met = np.unique(rows[facts == _NOT_MET])
        if not_met.size:
            for row in not_met.tolist():
                self._known[row] = self._fact(self._table.endpoint(row))
            facts = self._known[rows]
        return facts

    def forget(self) -> None:
        """The facts are others now."""
        self._known[:] = _NOT_MET

    def _refresh(self) -> None:
        index = self._table.index
        known = np.full(len(index.changed), _NOT_MET, np.int32)
        kept = len(self._known)
        same = index.changed[:kept] <= self._epoch
        known[:kept][same] = self._known[same]
        self._known, self._epoch = known, index.epoch
