"""Many watches of pods that read and forget: what they cost is the API server's cost.

`python -m tests.bench.kubernetes.light KUBECONFIG NUMBER`: says when all are open, and at the end
of its input how many bytes came.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.resources import RESOURCES
from retina_otel.kubernetes.api.stream import Stream
from retina_otel.kubernetes.objects import Kind


def main() -> None:
    access = Access.from_settings(Path(sys.argv[1]))
    pods = RESOURCES[Kind.POD]
    body = access.get(pods.path, {"limit": "1"}, accept=pods.list_accept)
    newest = protobuf.parse("PodList", protobuf.unwrap(body)[1]).metadata.resource_version
    query = {"watch": "1", "resourceVersion": newest, "allowWatchBookmarks": "true"}
    streams = [
        access.open_stream(pods.path, query, accept=pods.watch_accept)
        for _ in range(int(sys.argv[2]))
    ]
    stop = threading.Event()
    received = [0] * len(streams)

    def read(place: int, stream: Stream) -> None:
        while not stop.is_set():
            received[place] += len(stream.read(600, 0.1, stop))

    threads = [threading.Thread(target=read, args=each, daemon=True) for each in enumerate(streams)]
    for thread in threads:
        thread.start()
    print("open", flush=True)
    sys.stdin.read()
    stop.set()
    for stream in streams:
        stream.wake()
    print(sum(received), flush=True)


if __name__ == "__main__":
    main()
