"""One end of each row of a batch, and the steps by which it becomes known: interface and namespace,
address and time. What several steps know, the first one tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from retina_otel.model.attributes import EVENT_FIRST_SEEN, NETWORK_TRANSPORT, TCP_FLAG
from retina_otel.model.batches import UNKNOWN_ROW, Column, EventBatch, How, MetricBatch, RawEnds
from retina_otel.model.protocols import TRANSPORTS
from retina_otel.pipeline.identity.claims import AMBIGUOUS
from retina_otel.pipeline.identity.endpoints import EndpointTable

Rows = npt.NDArray[np.int32]
Hows = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
Protocols = npt.NDArray[np.uint8]

_TCP = 6
_LOCALLY = np.isin(list(How), [How.INTERFACE, How.NAMESPACE, How.SOCKET])
_NUMBERS = {name: number for number, name in enumerate(TRANSPORTS)}


@dataclass(slots=True)
class End:
    """One end of each row, and what is known of it so far."""

    raw: RawEnds
    rows: Rows
    how: Hows

    def at(self, kept: Mask) -> End:
        return End(self.raw.at(kept), self.rows[kept], self.how[kept])

    @property
    def local(self) -> Mask:
        local: Mask = _LOCALLY[self.how]
        return local


def resolve(
    table: EndpointTable,
    ends: RawEnds | None,
    first_ns: Times | None = None,
    last_ns: Times | None = None,
) -> Rows | None:
    """The row of each end: by interface, else by namespace, else by address. The node's own
    namespace must be in the table, as NodeIdentity puts it there."""
    if ends is None:
        return None
    end = locally(table, ends, first_ns)
    by_address(table, end, first_ns, last_ns)
    return end.rows


def locally(table: EndpointTable, raw: RawEnds, first_ns: Times | None) -> End:
    """What interface and namespace tell. The number of a namespace is given to the next one at
    once: of what was seen before a pod was there it tells nothing."""
    rows = table.resolve_interface(raw.ifindex)
    how = np.where(rows != UNKNOWN_ROW, np.uint8(How.INTERFACE), np.uint8(How.UNKNOWN))
    if raw.netns is not None:
        open_ = np.flatnonzero((rows == UNKNOWN_ROW) & (raw.netns != 0))
        if open_.size:
            found = table.resolve_netns(raw.netns[open_])
            if first_ns is not None:
                found[first_ns[open_] < table.since(found)] = UNKNOWN_ROW
            rows[open_] = found
            how[open_[found != UNKNOWN_ROW]] = How.NAMESPACE
    return End(raw, rows, how)


def kept_from(end: End, rows: Rows | None, how: Hows | None) -> End:
    """With what the node told before of rows that waited."""
    if rows is not None and how is not None:
        told = _LOCALLY[how] & (rows != UNKNOWN_ROW)
        end.rows[told], end.how[told] = rows[told], how[told]
    return end


def by_address(
    table: EndpointTable, end: End, first_ns: Times | None, last_ns: Times | None
) -> None:
    """What address and time tell of ends that are not known yet."""
    raw = end.raw
    open_ = end.rows == UNKNOWN_ROW
    if raw.seen_netns is not None:
        open_ &= table.resolve_netns(raw.seen_netns) != UNKNOWN_ROW
    at = np.flatnonzero(open_)
    if not at.size:
        return
    if at.size == len(open_):
        found = table.locate(raw.hi, raw.lo, first_ns, last_ns)
    else:
        first = None if first_ns is None else first_ns[at]
        last = None if last_ns is None else last_ns[at]
        found = table.locate(raw.hi[at], raw.lo[at], first, last)
    how = np.where(found > UNKNOWN_ROW, np.uint8(How.ADDRESS), np.uint8(How.NOBODY))
    how[found == AMBIGUOUS] = How.AMBIGUOUS
    end.how[at] = how
    end.rows[at] = np.maximum(found, UNKNOWN_ROW)


def with_behind(
    raw: RawEnds,
    rows: npt.NDArray[np.intp],
    hi: npt.NDArray[np.uint64],
    lo: npt.NDArray[np.uint64],
) -> RawEnds:
    behind_hi, behind_lo = np.zeros_like(raw.hi), np.zeros_like(raw.lo)
    behind_hi[rows], behind_lo[rows] = hi, lo
    return replace(raw, behind_hi=behind_hi, behind_lo=behind_lo)


def without_address(raw: RawEnds, rows: Mask) -> RawEnds:
    """Some ends without address and port."""
    return replace(
        raw,
        hi=np.where(rows, np.uint64(0), raw.hi),
        lo=np.where(rows, np.uint64(0), raw.lo),
        port=np.where(rows, np.uint16(0), raw.port),
    )


def times(batch: MetricBatch | EventBatch) -> tuple[Times, Times]:
    """Wall time of the first and the last of what each row stands for."""
    if isinstance(batch, EventBatch):
        first = batch.own.get(EVENT_FIRST_SEEN.name)
        return (first if isinstance(first, np.ndarray) else batch.time_ns), batch.time_ns
    n_rows = len(batch)
    first_ns, last_ns = batch.first_ns, batch.last_ns
    if first_ns is None:
        first_ns = np.full(n_rows, batch.window.start_ns, np.int64)
    if last_ns is None:
        last_ns = np.full(n_rows, batch.window.end_ns, np.int64)
    return first_ns, last_ns


def protocols(batch: MetricBatch | EventBatch) -> Protocols:
    """IP protocol number of each row, 0 where it is not known."""
    column = batch.own.get(NETWORK_TRANSPORT.name)
    if not isinstance(column, Column):
        return np.full(len(batch), _TCP if TCP_FLAG.name in batch.own else 0, np.uint8)
    numbers = np.array([*(_NUMBERS.get(str(value), 0) for value in column.values), 0], np.uint8)
    return numbers[column.codes]
