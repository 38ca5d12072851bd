"""What a consumer of a watcher would have, and a second reading of the API: JSON, by other code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Change, Kind, Timing, Wanted, Watcher, WatchState
from retina_otel.kubernetes.objects import (
    EndpointSlice,
    Meta,
    Namespace,
    Node,
    Object,
    OwnerRef,
    Pod,
    Service,
    ServicePort,
    Workload,
)

QUICK = Timing(phase_s=0, nap_s=0.02, retry_first_s=0.1, retry_most_s=0.4)
SECONDS = 30


class Mirror:
    """Applies changes as any consumer must, and keeps what it was told."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.changes: list[Change] = []
        self.states: list[WatchState] = []
        self._news = threading.Condition()

    def change(self, change: Change) -> None:
        with self._news:
            if change.full:
                self.objects.clear()
            self.objects.update({one.meta.uid: one for one in change.upserted})
            for one in change.deleted:
                self.objects.pop(one.meta.uid, None)
            self.changes.append(change)
            self._news.notify_all()

    def state(self, state: WatchState) -> None:
        with self._news:
            self.states.append(state)
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            if not self._news.wait_for(condition, SECONDS):
                raise AssertionError(f"no {what}; states: {self.states[-5:]}")

    def wait_for(self, name: str) -> None:
        """Until an object of this name was told."""
        self.wait(lambda: name in self.names(), f"object {name}")

    def wait_state(self, synced: bool, having: str = "", after: int = 0) -> WatchState:
        """The first such state behind the first `after`."""

        def found() -> list[WatchState]:
            return [s for s in self.states[after:] if s.synced == synced and having in s.reason]

        self.wait(lambda: bool(found()), f"state {synced} {having}")
        return found()[0]

    def names(self) -> set[str]:
        return {one.meta.name for one in self.objects.values()}

    def told(self, name: str) -> int:
        """How often an object of this name was among what was upserted."""
        return sum(one.meta.name == name for each in self.changes for one in each.upserted)

    def lists(self) -> int:
        return sum(each.full for each in self.changes)


@contextmanager
def watching(
    kubeconfig: Path,
    kind: Kind = Kind.POD,
    *,
    selector: str = "",
    wanted: Wanted | None = None,
    timing: Timing = QUICK,
) -> Iterator[Mirror]:
    mirror = Mirror()
    watcher = Watcher(
        Access.from_settings(kubeconfig),
        kind,
        on_change=mirror.change,
        on_state=mirror.state,
        selector=selector,
        wanted=wanted,
        timing=timing,
    )
    watcher.start()
    try:
        yield mirror
    finally:
        watcher.stop()


# ------------------------------------------------------------------------------------------- JSON

Json = dict[str, Any]


def reduced(kind: Kind, item: Json, wanted: Wanted) -> Object:
    """An object as the API's JSON has it."""
    meta, spec, status = _meta(item, wanted), item.get("spec", {}), item.get("status", {})
    if kind is Kind.POD:
        return _pod(meta, spec, status)
    if kind is Kind.SERVICE:
        ingress = status.get("loadBalancer", {}).get("ingress", [])
        return Service(
            meta,
            spec["type"],
            tuple(one for one in spec.get("clusterIPs", []) if one != "None"),
            (*spec.get("externalIPs", []), *(one["ip"] for one in ingress if "ip" in one)),
            tuple(
                ServicePort(
                    one.get("name", ""), one["protocol"], one["port"], one.get("nodePort", 0)
                )
                for one in spec.get("ports", [])
            ),
        )
    if kind is Kind.ENDPOINT_SLICE:
        return EndpointSlice(
            meta,
            item["metadata"].get("labels", {}).get("kubernetes.io/service-name", ""),
            tuple(address for one in item["endpoints"] or [] for address in one["addresses"]),
            tuple(one["port"] for one in item["ports"] or []),
        )
    if kind is Kind.NODE:
        kinds = {"InternalIP", "ExternalIP"}
        return Node(
            meta,
            tuple(one["address"] for one in status.get("addresses", []) if one["type"] in kinds),
            tuple(spec.get("podCIDRs", [])),
            spec.get("providerID", ""),
        )
    if kind is Kind.NAMESPACE:
        return Namespace(meta)
    api_version, name = {
        Kind.REPLICA_SET: ("apps/v1", "ReplicaSet"),
        Kind.JOB: ("batch/v1", "Job"),
    }[kind]
    return Workload(meta, api_version, name)


def _pod(meta: Meta, spec: Json, status: Json) -> Pod:
    statuses = [
        one
        for which in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        for one in status.get(which, [])
    ]
    over = status["phase"] in ("Succeeded", "Failed")
    starts, ends = [], [0]
    for one in statuses:
        if "running" in one["state"]:
            starts.append(_ns(one["state"]["running"]["startedAt"]) + 10**9)
        elif over and "terminated" in one["state"]:
            starts.append(_ns(one["state"]["terminated"]["startedAt"]) + 10**9)
            ends.append(_ns(one["state"]["terminated"]["finishedAt"]))
    return Pod(
        meta,
        spec.get("nodeName", ""),
        spec.get("hostNetwork", False),
        status["phase"],
        tuple(one["ip"] for one in status.get("podIPs", [])),
        tuple(one["ip"] for one in status.get("hostIPs", [])),
        _ns(status.get("startTime")),
        min(starts, default=0),
        max(ends),
        tuple(one["containerID"].split("://")[1] for one in statuses if "containerID" in one),
    )


def _meta(item: Json, wanted: Wanted) -> Meta:
    meta = item["metadata"]
    owners = [one for one in meta.get("ownerReferences", []) if one.get("controller")]
    owner = None
    if owners:
        [one] = owners
        owner = OwnerRef(one["apiVersion"], one["kind"], one["name"], one["uid"])
    labels, annotations = meta.get("labels", {}), meta.get("annotations", {})
    return Meta(
        meta["name"],
        meta["uid"],
        meta["resourceVersion"],
        meta.get("namespace", ""),
        _ns(meta["creationTimestamp"]),
        _ns(meta.get("deletionTimestamp")),
        meta.get("deletionGracePeriodSeconds", 0) * 10**9,
        owner,
        {key: value for key, value in labels.items() if key in wanted.label_keys},
        {key: value for key, value in annotations.items() if key in wanted.annotation_keys},
    )


def _ns(text: str | None) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9 if text else 0
