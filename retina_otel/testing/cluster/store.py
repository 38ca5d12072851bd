"""The etcd of a control plane: its data may be compacted, copied, wiped and put back.

Each makes the API server see what a real store does after a failure: history that is gone, or a
revision that went back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster.binaries import binary
from retina_otel.testing.cluster.process import Processes

START_SECONDS = 30


class Store:
    """One etcd member. `endpoint` is where this process reaches it, as host:port."""

    def __init__(
        self,
        processes: Processes,
        data: Path,
        *,
        port: int,
        peer_port: int,
        endpoint: str,
        enter: Sequence[str] = (),
    ) -> None:
        self.data = data
        self.endpoint = endpoint
        self.url = f"http://127.0.0.1:{port}"
        peer = f"http://127.0.0.1:{peer_port}"
        self._process = processes.add(
            "etcd",
            [
                *enter,
                binary("etcd"),
                "--name=lab",
                f"--data-dir={data}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=lab={peer}",
                # Nothing here outlives the machine.
                "--unsafe-no-fsync",
                "--auto-compaction-retention=0",
                "--quota-backend-bytes=8589934592",
                "--log-level=warn",
            ],
        )

    def start(self) -> None:
        """Returns when it serves."""
        self._process.start()
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(self.endpoint) as channel:
            while True:
                self._process.require_running()
                try:
                    _call(channel, "/etcdserverpb.KV/Range", b"\x0a\x01\x00")
                    return
                except grpc.RpcError:
                    if time.monotonic() > deadline:
                        raise RetinaError(f"etcd does not serve:\n{self._process.tail()}") from None
                    time.sleep(0.05)

    def stop(self) -> None:
        self._process.stop()

    def compact(self, revision: int) -> None:
        """Forgets all history before `revision`, on disk too."""
        # CompactionRequest: revision = 1, physical = 2.
        request = b"\x08" + _varint(revision) + b"\x10\x01"
        with grpc.insecure_channel(self.endpoint) as channel:
            _call(channel, "/etcdserverpb.KV/Compact", request)

    def copy_to(self, folder: Path) -> None:
        """Copies the data. It must be stopped."""
        shutil.copytree(self.data, folder)

    def replace_by(self, folder: Path | None) -> None:
        """Takes the data of `folder`, or none, in the place of its own. It must be stopped."""
        shutil.rmtree(self.data, ignore_errors=True)
        if folder is not None:
            shutil.copytree(folder, self.data)


def _call(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    # Two calls do not make up for generated code: messages go as bytes.
    ask = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
    return bytes(ask(request, timeout=10))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
