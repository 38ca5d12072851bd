"""Introduction: which cluster and node this is, as soon as a source knows.

It goes on the resource of everything that is sent, so it is worth a short wait at the start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote

from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.access import PROTOBUF, Access, AccessError
from retina_otel.kubernetes.api.decode import Decoder, Wanted
from retina_otel.kubernetes.cloud import NODE_LABELS, node_resource
from retina_otel.kubernetes.objects import Node

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_FORBIDDEN = 403
_NOT_FOUND = 404


class Introduction:
    """Any thread."""

    def __init__(self, node: str, learned: Callable[[Mapping[str, str | int | bool]], None]):
        """`node` is our own, empty where it is not known."""
        self._learned = learned
        self._to_come = {"k8s.cluster.uid", "k8s.node.uid"} if node else {"k8s.cluster.uid"}
        self._done = threading.Event()

    def cluster(self, uid: str) -> None:
        self._tell({"k8s.cluster.uid": uid})

    def node(self, node: Node) -> None:
        self._tell(node_resource(node))

    def no_more(self) -> None:
        """What is not known yet is not worth a wait."""
        self._done.set()

    def wait(self, at_most_s: float) -> None:
        """Returns when all is known."""
        self._done.wait(at_most_s)

    def _tell(self, found: dict[str, str | int | bool]) -> None:
        self._learned(found)
        self._to_come -= found.keys()
        if not self._to_come:
            self._done.set()


class Enquiry:
    """Asks the API server, and asks it again while it is away, in a thread of its own."""

    def __init__(
        self,
        access: Access,
        node: str,
        introduction: Introduction,
        lacking: Callable[[str], None],
    ) -> None:
        """`lacking` is told what is not known, and the remedy; empty when all is."""
        self._access = access
        self._node = node
        self._introduction = introduction
        self._lacking = lacking
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="introduction", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._stop.is_set():
            # While there is no answer, the watches say why.
            with suppress(RetinaError):
                all_known = self._ask()
                self._introduction.no_more()
                if all_known:
                    return
            self._stop.wait(retry_s)
            retry_s = min(retry_s * 2, _LAST_RETRY_S)

    def _ask(self) -> bool:
        """False if something is missing that may be given later. Raises RetinaError while there is
        no answer."""
        lacking = []
        uid = self._access.cluster_uid()
        if uid and not self._stop.is_set():
            self._introduction.cluster(uid)
        elif uid is None:
            lacking.append("the cluster's uid is unknown: grant `get namespaces`")
        if self._node:
            try:
                node = self._read_node()
            except AccessError as error:
                if error.status not in (_FORBIDDEN, _NOT_FOUND):
                    raise
                lacking.append(
                    "this node's uid and cloud are unknown: grant `get nodes`"
                    if error.status == _FORBIDDEN
                    else f"there is no node {self._node!r}: set `node_name` to this node's name"
                )
            else:
                if not self._stop.is_set():
                    self._introduction.node(node)
        self._lacking("; ".join(lacking))
        return not lacking

    def _read_node(self) -> Node:
        path = f"/api/v1/nodes/{quote(self._node, safe='')}"
        body = self._access.get(path, accept=PROTOBUF)
        message = protobuf.parse("Node", protobuf.unwrap(body)[1])
        return Decoder(Wanted(label_keys=NODE_LABELS)).node(message)
