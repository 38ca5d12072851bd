"""Leader election by a Lease: at most one replica writes, as far as their clocks run alike.

The official client's own election can't be stopped, does not give the lease back and needs the
whole client, 24 MB; the rules are few. A holder is taken for gone when its lease has not changed
for the lease's duration by our own monotonic clock, since clocks of nodes differ. The holder itself
stops leading earlier than that, when it has not renewed the lease for a while.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api.access import Access, AccessError

_CONFLICT, _NOT_FOUND = 409, 404


class Leader:
    """Keeps or wants the lease, in a thread of its own, which also does the leader's work."""

    def __init__(
        self,
        access: Access,
        *,
        namespace: str,
        name: str,
        identity: str,
        work: Callable[[], None],
        logger: logging.Logger,
        duration_s: float = 15.0,
        period_s: float = 5.0,
    ) -> None:
        """`work` is called each period while we lead; RetinaErrors of it are logged."""
        self._access = access
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._work = work
        self._logger = logger
        self._duration_s = duration_s
        self._period_s = period_s
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._until = 0.0
        self._led = False
        self._failure = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader-election", daemon=True)

    @property
    def leading(self) -> bool:
        """Any thread."""
        return time.monotonic() < self._until

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Gives the lease back, so that another replica need not wait."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._attempt(self._renew)
            if self.leading != self._led:
                self._led = self.leading
                self._logger.info("%s", "this replica leads" if self._led else "another one leads")
            if self.leading:
                self._attempt(self._work)
            self._stop.wait(self._period_s)
        if self.leading:
            self._until = 0.0
            self._attempt(self._give_back)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RetinaError as error:
            # Told once: the API server may be away for long.
            if str(error) != self._failure:
                self._failure = str(error)
                self._logger.warning("%s", error)
        else:
            self._failure = ""

    def _renew(self) -> None:
        began = time.monotonic()
        lease = self._read()
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str(lease.get("metadata", {}).get("resourceVersion", "")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, began
        if holder not in ("", self._identity):
            self._until = 0.0
            lasts_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
            if began - self._seen_at < lasts_s:
                return
        if self._write(lease, self._identity):
            self._until = began + self._duration_s * 2 / 3

    def _give_back(self) -> None:
        lease = self._read()
        if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            self._write(lease, "")

    def _read(self) -> dict[str, Any]:
        """The lease; an empty object if there is none."""
        try:
            read: dict[str, Any] = json.loads(self._access.get(f"{self._collection}/{self._name}"))
        except AccessError as error:
            if error.status == _NOT_FOUND:
                return {}
            raise
        return read

    def _write(self, lease: dict[str, Any], holder: str) -> bool:
        """False if somebody else was quicker."""
        spec = dict(lease.get("spec") or {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if spec.get("holderIdentity") != holder:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + bool(lease)
        spec |= {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._duration_s)),
            "renewTime": now,
        }
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            # With its resourceVersion, so that of two writers one is refused.
            "metadata": lease.get("metadata") or {"name": self._name},
            "spec": spec,
        }
        method, path = (
            ("PUT", f"{self._collection}/{self._name}") if lease else ("POST", self._collection)
        )
        try:
            with self._access.session() as session:
                session.request(method, path, body=body)
        except AccessError as error:
            if error.status == _CONFLICT:
                return False
            raise
        return True
