"""Introduction: asks the API server at the start which cluster and node this is.

What it learns goes on the resource of everything that is sent, so it is worth a short wait; while
the API server is away it is asked again, in a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

from retina_otel.errors import RetinaError
from retina_otel.kubernetes import protobuf
from retina_otel.kubernetes.access import PROTOBUF, Access, AccessError
from retina_otel.kubernetes.cloud import NODE_LABELS, node_resource
from retina_otel.kubernetes.decode import Decoder, Wanted
from retina_otel.kubernetes.objects import Node

Learned = Callable[[dict[str, str | int | bool]], None]

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_FORBIDDEN = 403


class Introduction:
    """Done once; started and stopped with the extension."""

    def __init__(
        self, access: Access, node: str, learned: Learned, refused: Callable[[str], None]
    ) -> None:
        """`refused` is told what is not known for want of which right; empty when all is."""
        self._access = access
        self._node = node
        self._learned = learned
        self._refused = refused
        self._done = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="introduction", daemon=True)

    def start(self, wait_s: float) -> None:
        """Returns when it is known, or after `wait_s`."""
        self._thread.start()
        self._done.wait(wait_s)

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._stop.is_set():
            # While there is no answer, the watches say why.
            with suppress(RetinaError):
                all_known = self._ask()
                self._done.set()
                if all_known:
                    return
            self._stop.wait(retry_s)
            retry_s = min(retry_s * 2, _LAST_RETRY_S)

    def _ask(self) -> bool:
        """False if a right is missing, which may be given later. Raises RetinaError while there is
        no answer."""
        found: dict[str, str | int | bool] = {}
        lacking = []
        uid = self._access.cluster_uid()
        if uid:
            found["k8s.cluster.uid"] = uid
        elif uid is None:
            lacking.append("the cluster's uid is unknown: grant `get namespaces`")
        if self._node:
            try:
                found |= node_resource(self._read_node())
            except AccessError as error:
                if error.status != _FORBIDDEN:
                    raise
                lacking.append("this node's uid and cloud are unknown: grant `get nodes`")
        self._refused("; ".join(lacking))
        if found and not self._stop.is_set():
            self._learned(found)
        return not lacking

    def _read_node(self) -> Node:
        path = f"/api/v1/nodes/{quote(self._node, safe='')}"
        body = self._access.get(path, accept=PROTOBUF)
        message = protobuf.parse("Node", protobuf.unwrap(body)[1])
        return Decoder(Wanted(label_keys=NODE_LABELS)).node(message)
