"""A backend in a process of its own: reads each request, answers it, keeps nothing.

`python -m tests.bench.exporters.backend STATUS` prints its port and serves HTTP until its input
ends; with `grpc` for a status it answers every call of gRPC with an empty message.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

_MOST = 1 << 20


@contextmanager
def backend(status: int | str = 200) -> Iterator[str]:
    """Its URL, without a path."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(status)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


def main() -> None:
    if sys.argv[1] == "grpc":
        grpc_server = grpc.server(futures.ThreadPoolExecutor(10), [_Calls()])
        print(grpc_server.add_insecure_port("127.0.0.1:0"), flush=True)
        grpc_server.start()
        sys.stdin.read()
        return
    status = int(sys.argv[1])
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=_serve, args=(server, status), daemon=True).start()
    sys.stdin.read()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, call: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda message, context: b"")


def _serve(server: socket.socket, status: int) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_answer, args=(connection, status), daemon=True).start()


def _answer(connection: socket.socket, status: int) -> None:
    # Of remote write 2.0 it says that all is written, whatever there was.
    written = "X-Prometheus-Remote-Write-Samples-Written: 1000000000"
    answer = f"HTTP/1.1 {status} Answered\r\nContent-Length: 0\r\n{written}\r\n\r\n".encode()
    room = bytearray(_MOST)
    with connection, connection.makefile("rb", buffering=_MOST) as reader:
        while reader.readline():
            length = 0
            while (line := reader.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            while length:
                length -= reader.readinto(memoryview(room)[: min(length, _MOST)])
            connection.sendall(answer)


if __name__ == "__main__":
    main()
