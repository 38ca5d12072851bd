"""The flows receiver: attaches the programs, ends a generation each tick, keeps the books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retina_otel.component import Collected, Context
from retina_otel.errors import KernelError
from retina_otel.kernel.bpf import attach
from retina_otel.model.batches import UNKNOWN_ROW, Window
from retina_otel.receivers.flows import columns
from retina_otel.receivers.flows.attachments import Attachments, Rules
from retina_otel.receivers.flows.coverage import compare
from retina_otel.receivers.flows.events import FlowEvents
from retina_otel.receivers.flows.ownership import UplinkJudge, halves
from retina_otel.receivers.flows.rows import FlowRows
from retina_otel.receivers.flows.settings import FlowsSettings
from retina_otel.receivers.flows.stamps import Stamps
from retina_otel.receivers.flows.tables import FlowTables, LedgerCounts
from retina_otel.receivers.flows.tuples import TupleMemory


class FlowsReceiver:
    """See `retina_otel.component.Receiver`; all calls come from the tick thread."""

    def __init__(self, settings: FlowsSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._tables: FlowTables | None = None
        self._attachments: Attachments | None = None
        self._judge = UplinkJudge(2 * settings.max_flows)
        self._held = 0
        self._addresses: tuple[str, ...] = ()
        self._halves = halves(())
        self._openers = TupleMemory(2 * settings.max_flows) if settings.initiator else None
        self._events: FlowEvents | None = None
        self._stamps: Stamps | None = None

    def start(self) -> None:
        settings, context = self._settings, self._context
        context.ledger.may_lose("table_full")
        self._remove_strays()
        self._tables = FlowTables(
            cache_bytes=settings.cache_bytes,
            max_flows=settings.max_flows,
            ring_bytes=settings.ring_bytes,
            shared_cpus=_preemptible_softirqs(),
        )
        self._stamps = Stamps(context.clock)
        if settings.events != "off":
            limits = (settings.max_flows, settings.idle_timeout)
            self._events = FlowEvents(
                context.clock, self._stamps, limits if settings.events == "end" else None
            )
        interfaces = settings.interfaces
        self._attachments = Attachments(
            self._tables.programs,
            Rules(interfaces.pods, interfaces.uplinks, interfaces.exclude),
            position=settings.position,
            hook=settings.hook,
            logger=context.logger,
            degraded=context.degraded,
        )
        context.interfaces.subscribe(self._attachments.on_change)
        self._attachments.followed_from_now()

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        tables, attachments = self._started()
        # First: it tells subscribers, and where one fails, what was counted is still in the kernel.
        self._compare_with_interfaces()
        attachments.leave_out(self._not_observed())
        attachments.retry()
        gone = attachments.gone()
        generation = tables.take()
        tables.forget(gone)
        rows = generation.rows
        at_uplink = np.isin(rows.ifindex, attachments.uplink_array())
        judged = self._judge.judge(rows.select(at_uplink), self._node_addresses())
        held_before = self._held
        self._held = int(judged.held.packets.sum())
        at_pods = rows.select(~at_uplink) if at_uplink.any() else rows
        ours = FlowRows.concatenate([at_pods, judged.ours]) if len(judged.ours) else at_pods
        elsewhere = int(judged.elsewhere.packets.sum())
        self._context.ledger.add(
            seen=generation.seen_packets,
            drained=int(ours.packets.sum()),
            not_ours={
                "not_ip": generation.not_ip_packets,
                "counted_elsewhere": elsewhere,
            },
            lost={"table_full": generation.lost_packets},
            held=self._held - held_before,
        )
        self._context.ledger.set_beside("lost_flags", tables.lost_flags)
        collected = self._report(ours, window)
        if self._openers is not None:
            self._openers.next_generation()
        return collected

    def finish(self, window: Window) -> Collected:
        """What was held back by the last `collect()`, and events of the flows that have not
        ended."""
        held = self._judge.release()
        collected = Collected()
        if held is not None and len(held):
            self._context.ledger.add(drained=self._held, held=-self._held)
            self._held = 0
            collected = self._report(held, window)
        if self._events is None:
            return collected
        names = self._started()[1].names
        last = self._events.finish(window, names)
        return Collected(collected.metrics, [*collected.events, *last])

    def _report(self, rows: FlowRows, window: Window) -> Collected:
        attachments = self._started()[1]
        assert self._stamps is not None
        self._stamps.refresh()
        batches = columns.batches(
            rows,
            window,
            attachments.uplink_array(),
            attachments.names,
            self._openers,
            times=self._stamps.wall(rows, window),
        )
        if self._events is None:
            return Collected(metrics=batches)
        volumes = batches[0] if batches else None
        events = self._events.collect(rows, volumes, window, attachments.names)
        return Collected(metrics=batches, events=events)

    def fds(self) -> Sequence[int]:
        return ()

    def ready(self, fd: int) -> None:
        """Nothing wakes this receiver between ticks."""

    def stop(self) -> None:
        if self._attachments is not None:
            self._context.interfaces.unsubscribe(self._attachments.on_change)
            self._attachments.close()
            self._attachments = None
        self._events = None
        if self._stamps is not None:
            self._stamps.close()
            self._stamps = None
        if self._tables is not None:
            self._tables.close()
            self._tables = None

    @property
    def attached(self) -> frozenset[str]:
        """Names of the interfaces that are counted now."""
        attachments = self._started()[1]
        return frozenset(one.interface.name for one in list(attachments.by_ifindex.values()))

    def ledger_of(self, interface: str) -> dict[str, LedgerCounts]:
        """What the ledger has of an interface, by hook: "ingress" and "egress"."""
        tables, attachments = self._started()
        return {
            "egress" if egress else "ingress": counts
            for (ifindex, egress), counts in tables.ledger().items()
            if attachments.names.get(ifindex) == interface
        }

    def _remove_strays(self) -> None:
        """Filters that a killed agent left behind; tcx programs went with it."""
        try:
            removed = attach.remove_stray_clsact()
        except KernelError as error:
            self._context.logger.warning("no look for stray filters: %s", error)
            return
        if removed:
            self._context.logger.info("removed %d filters that a killed agent had left", removed)

    def _compare_with_interfaces(self) -> None:
        tables, attachments = self._started()
        context = self._context
        try:
            stats = context.interfaces.read_stats()
        except KernelError as error:
            # Nothing but the comparison depends on it; the next tick makes up for it.
            context.logger.warning("no comparison with the interfaces' counters: %s", error)
            return
        counted = tables.ledger()
        context.ledger.set_coverage(compare(attachments.by_ifindex, counted, stats))
        attachments.take_bases(stats, counted)
        context.ledger.set_beside("before_attach", attachments.before_attach_packets)

    def _not_observed(self) -> set[int]:
        """Interfaces behind which a pod lives that nobody wants observed."""
        table, selection = self._context.identity, self._context.selection
        if selection.everything:
            return set()
        interfaces = self._started()[1].pods()
        rows = table.resolve_interface(interfaces)
        return {
            ifindex
            for ifindex, row in zip(interfaces.tolist(), rows.tolist(), strict=True)
            if row != UNKNOWN_ROW and not selection.observes(table.endpoint(row))
        }

    def _started(self) -> tuple[FlowTables, Attachments]:
        if self._tables is None or self._attachments is None:
            raise RuntimeError("collect() before start()")
        return self._tables, self._attachments

    def _node_addresses(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """(hi, lo) of the node's addresses; made anew only when these have changed."""
        texts = tuple(
            address
            for interface in self._context.interfaces.current().values()
            for address in interface.addresses
        )
        if texts != self._addresses:
            self._addresses, self._halves = texts, halves(texts)
        return self._halves


def _preemptible_softirqs() -> bool:
    """Whether one tc program may interrupt another on the same CPU (PREEMPT_RT)."""
    return "PREEMPT_RT" in Path("/proc/sys/kernel/version").read_text()
