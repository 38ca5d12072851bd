"""A program: forwards TCP connections from listening sockets that it inherits to where it runs.

A socket keeps the network namespace in which it was made. So a test on the machine's loopback
reaches a control plane in a namespace of its own, and nothing is added to the machine's network:

    python forward.py FD=ADDRESS:PORT ...
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

CHUNK = 1 << 18


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def _serve(fd: int, address: str, port: int) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection(address, port)
        except OSError:
            # A reset, as from a machine on which nothing listens.
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))

    server = await asyncio.start_server(connect, sock=socket.socket(fileno=fd))
    await server.serve_forever()


async def _serve_all(pairs: list[str]) -> None:
    servers = []
    for pair in pairs:
        fd, _, target = pair.partition("=")
        address, _, port = target.rpartition(":")
        servers.append(_serve(int(fd), address, int(port)))
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(_serve_all(sys.argv[1:]))
