"""From our batches to those of Retina's metrics, behind the processors of a pipeline of their own.

Node-level metrics are summed at once: no end is on them. Pod-level ones keep their ends, which may
still become known. What they mean is Retina's; the books are those of the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retina_otel.model import signals
from retina_otel.model.batches import Column, MetricBatch, Values
from retina_otel.model.classic import (
    ADV_DROP_BYTES,
    ADV_DROP_COUNT,
    ADV_FORWARD_BYTES,
    ADV_FORWARD_COUNT,
    ADV_TCPFLAGS_COUNT,
    CLASSIC,
    DEFAULT_LABELS,
    DROP_BYTES,
    DROP_COUNT,
    FORWARD_BYTES,
    FORWARD_COUNT,
    INTERFACE_STATS,
    LABELS,
    TCP_FLAG_GAUGES,
    UNKNOWN,
    ClassicMetric,
)
from retina_otel.model.signals import Metric
from retina_otel.pipeline.identity.late import lives_here
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay

_Mask = npt.NDArray[np.bool_]

_FLAGS = {
    "fin": "FIN",
    "syn": "SYN",
    "syn_ack": "SYNACK",
    "ack": "ACK",
    "rst": "RST",
    "psh": "PSH",
    "urg": "URG",
    "ece": "ECE",
    "cwr": "CWR",
}
_NODE_FLAGS = ("syn", "syn_ack", "fin", "rst")
_REASONS = {"netfilter_drop": "IPTABLE_RULE_DROP"}
_LEFT_OUT = ("lo", "cbr0", "lxc", "azv")
"""Retina leaves out interfaces that have one of these in their name."""
_SIDES = {"receive": "rx", "transmit": "tx"}
_DIRECTIONS = {"receive": "ingress", "transmit": "egress"}
_OF_INTERFACES = (*FORWARD_COUNT.of, *FORWARD_BYTES.of, *INTERFACE_STATS.of)


class ClassicMetrics:
    """What is made of batches, by the view and by what extensions want: nothing before `change`.
    Tick thread only."""

    def __init__(self) -> None:
        self._view = View.REMOTE
        self._followed: tuple[Overlay, View] | None = None
        self._overlay = Overlay()
        self._metrics: Mapping[str, Metric] = {}

    def change(self, overlay: Overlay, view: View) -> Overlay:
        """Follows the view and an overlay on our own metrics; gives that of Retina's."""
        if self._followed == (overlay, view):
            return self._overlay
        self._followed, self._view = (overlay, view), view
        attributes: dict[str, tuple[str, ...]] = {}
        expiry: dict[str, float] = {}
        metrics: dict[str, Metric] = {}
        for one in CLASSIC:
            ours = one.of[0].name
            if not one.pod_level:
                # Nothing bounds how long Retina keeps these, and there are few.
                metrics[one.name] = one.metric()
                expiry[metrics[one.name].name] = math.inf
            elif view is not View.NODE and ours not in overlay.exclude:
                own, ends = _labels(one, overlay.attributes.get(ours), view)
                metrics[one.name] = metric = one.metric((*own, *(label for label, _ in ends)))
                attributes[metric.name] = (*one.labels, *own, *(key for _, key in ends))
                if ours in overlay.expiry:
                    expiry[metric.name] = overlay.expiry[ours]
        self._metrics = metrics
        self._overlay = Overlay(attributes, expiry)
        return self._overlay

    def derive(self, batch: MetricBatch) -> Iterator[MetricBatch]:
        """The batches of Retina's metrics that one of ours makes; none for most."""
        if signals.FLOW_PACKETS in batch.values or signals.FLOW_IO in batch.values:
            yield from self._pods(batch, (ADV_FORWARD_COUNT, ADV_FORWARD_BYTES), {})
        elif signals.TCP_FLAG_PACKETS in batch.values:
            yield from self._flags(batch)
        elif signals.DROP_PACKETS in batch.values or signals.DROP_IO in batch.values:
            yield from self._drops(batch)
        elif any(metric in batch.values for metric in _OF_INTERFACES):
            yield from self._interfaces(batch)

    def _flags(self, batch: MetricBatch) -> Iterator[MetricBatch]:
        flag = _column(batch, signals.TCP_FLAG.name)
        yield from self._node(
            batch,
            (TCP_FLAG_GAUGES,),
            {
                "direction": _column(batch, signals.NETWORK_INTERFACE_DIRECTION.name),
                "flag": _renamed(flag, _FLAGS.get),
            },
            _has(flag, _NODE_FLAGS),
        )
        yield from self._pods(batch, (ADV_TCPFLAGS_COUNT,), {"flag": _renamed(flag, _FLAGS.get)})

    def _drops(self, batch: MetricBatch) -> Iterator[MetricBatch]:
        reason = _renamed(_column(batch, signals.DROP_REASON.name), _REASONS.get, str.upper)
        direction = _constant(len(batch), UNKNOWN)
        own = {"reason": reason, "direction": direction}
        yield from self._node(batch, (DROP_COUNT, DROP_BYTES), own)
        yield from self._pods(batch, (ADV_DROP_COUNT, ADV_DROP_BYTES), {"reason": reason})

    def _interfaces(self, batch: MetricBatch) -> Iterator[MetricBatch]:
        way = _column(batch, signals.NETWORK_IO_DIRECTION.name)
        direction = _renamed(way, _DIRECTIONS.get)
        yield from self._node(batch, (FORWARD_COUNT, FORWARD_BYTES), {"direction": direction})
        side = _renamed(way, _SIDES.get)
        name = _column(batch, signals.NETWORK_INTERFACE_NAME.name)
        kind = _column(batch, signals.ERROR_TYPE.name)
        counted = np.array(
            [not any(part in str(one) for part in _LEFT_OUT) for one in (*name.values, "")]
        )[name.codes]
        everywhere = _constant(len(batch), "all_interfaces")
        for ours, what, of in (
            (signals.INTERFACE_DROPPED, "dropped", None),
            (signals.INTERFACE_ERRORS, "errors", None),
            (signals.INTERFACE_ERRORS_BY_TYPE, "errors", kind),
        ):
            if ours in batch.values:
                shown = np.asarray(counted & (_numbers(batch.values[ours]) != 0))
                statistic = _joined(side, of, what)
                own = {"interface_name": everywhere, "statistic_name": statistic}
                only = replace(batch, values={ours: batch.values[ours]})
                yield from self._node(only, (INTERFACE_STATS,), own, shown)

    def _node(
        self,
        batch: MetricBatch,
        metrics: Sequence[ClassicMetric],
        own: Mapping[str, Column],
        rows: _Mask | None = None,
    ) -> Iterator[MetricBatch]:
        """One row for each combination of own labels."""
        values = self._values(batch, metrics)
        if not values:
            return
        kept = np.arange(len(batch)) if rows is None else np.flatnonzero(rows)
        if not kept.size:
            return
        codes = np.stack([column.codes[kept] for column in own.values()], axis=1)
        _, first, place = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        sums: dict[Metric, Values] = {}
        for metric, column in values.items():
            total = np.zeros(len(first), np.int64)
            np.add.at(total, place.reshape(-1), _numbers(column)[kept])
            sums[metric] = total
        yield MetricBatch(
            batch.window, sums, {name: column.at(kept[first]) for name, column in own.items()}
        )

    def _pods(
        self, batch: MetricBatch, metrics: Sequence[ClassicMetric], own: Mapping[str, Column]
    ) -> Iterator[MetricBatch]:
        """The rows with their ends; in local context a row for each end that lives here."""
        values = self._values(batch, metrics)
        if not values or batch.source is None or batch.destination is None:
            return
        both = replace(batch, values=values, own={**batch.own, **own})
        if self._view is View.REMOTE:
            yield replace(both, own={**both.own, **_connection(batch)})
            return
        for raw, rows, how, direction in (
            (batch.source, batch.source_rows, batch.source_how, "egress"),
            (batch.destination, batch.destination_rows, batch.destination_how, "ingress"),
        ):
            here = lives_here(raw)
            if here.any():
                one = replace(
                    both,
                    own={**both.own, "direction": _constant(len(batch), direction)},
                    source=raw,
                    source_rows=rows,
                    source_how=how,
                    destination=None,
                    destination_rows=None,
                    destination_how=None,
                )
                yield one.at(here)

    def _values(self, batch: MetricBatch, metrics: Sequence[ClassicMetric]) -> dict[Metric, Values]:
        return {
            self._metrics[one.name]: batch.values[ours]
            for one in metrics
            if one.name in self._metrics
            for ours in one.of
            if ours in batch.values
        }


def _labels(
    metric: ClassicMetric, chosen: Sequence[str] | None, view: View
) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Further own labels, and the labels of the ends with the attribute that each of them is."""
    sides = {"source_": "source.", "destination_": "destination."}
    if view is View.LOCAL:
        # There is one end, and it stands in the place of the source.
        sides = {"": "source."}
    ends = [
        (prefix + label, side + attribute)
        for prefix, side in sides.items()
        for label, attribute in LABELS.items()
        if (label in DEFAULT_LABELS if chosen is None else side + attribute in chosen)
    ]
    replies = chosen is not None and signals.FLOW_INITIATOR.name in chosen
    forward = metric in (ADV_FORWARD_COUNT, ADV_FORWARD_BYTES)
    return (("is_reply",) if replies and forward and view is View.REMOTE else ()), ends


def _connection(batch: MetricBatch) -> dict[str, Column]:
    """Whether each row's connection came or went, and whether the row is of who answered. A drop
    has no direction, which Retina tells as INGRESS."""
    egress = _has(_column(batch, signals.NETWORK_INTERFACE_DIRECTION.name), ("egress",))
    reply = _has(_column(batch, signals.FLOW_INITIATOR.name), ("destination",))
    return {
        "direction": Column((egress ^ reply).astype(np.int32), ("INGRESS", "EGRESS")),
        "is_reply": Column(reply.astype(np.int32), (False, True)),
    }


def _column(batch: MetricBatch, name: str) -> Column:
    column = batch.own.get(name)
    return _constant(len(batch), UNKNOWN) if column is None else column


def _constant(count: int, value: str) -> Column:
    return Column(np.zeros(count, np.int32), (value,))


def _renamed(
    column: Column,
    name: Callable[[str], str | None],
    otherwise: Callable[[str], str] = str,
) -> Column:
    return Column(column.codes, [name(str(one)) or otherwise(str(one)) for one in column.values])


def _joined(side: Column, kind: Column | None, what: str) -> Column:
    """Names as the kernel's own: `rx_dropped`, `tx_carrier_errors`."""
    if kind is None:
        return _renamed(side, lambda one: f"{one}_{what}")
    width = len(kind.values)
    names = [f"{one}_{other}_{what}" for one in side.values for other in kind.values]
    return Column((side.codes * width + kind.codes).astype(np.int32), names)


def _has(column: Column, wanted: Sequence[str]) -> _Mask:
    """By row: the value is one of those; an absent one is none."""
    mask: _Mask = np.array([one in wanted for one in column.values] + [False])[column.codes]
    return mask


def _numbers(values: Values) -> npt.NDArray[np.int64]:
    assert isinstance(values, np.ndarray)
    return values.astype(np.int64, copy=False)
