"""A watch's bytes come out whole, however the network cuts them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.kubernetes.api.stream import Frames, Stream

EVENTS = st.lists(st.binary(max_size=300), min_size=1, max_size=8)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(payload: bytes) -> bytes:
    return b"%x;ext=1\r\n%s\r\n" % (len(payload), payload) if payload else b""


def framed(event: bytes) -> bytes:
    return len(event).to_bytes(4, "big") + event


@contextmanager
def streaming(*, timeout_s: float = 5) -> Iterator[tuple[socket.socket, HTTPConnection]]:
    """The server's end of a connection, and the client's, whose request is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=timeout_s)
        connection.request("GET", "/")
        server, _ = listening.accept()
        with server:
            yield server, connection
        connection.close()


def open_stream(server: socket.socket, connection: HTTPConnection, head: bytes = HEAD) -> Stream:
    server.sendall(head)
    return Stream(connection, 5)


def read_to_the_end(stream: Stream) -> bytes:
    out = b""
    while True:
        try:
            out += stream.read(5)
        except EOFError:
            return out


@given(EVENTS, st.lists(st.integers(1, 40), min_size=1, max_size=50))
def test_what_comes_is_what_was_sent_wherever_it_is_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    wire = HEAD + b"".join(map(chunked, payloads)) + b"0\r\n\r\n"
    with streaming() as (server, connection):

        def send() -> None:
            at = 0
            for cut in cuts:
                server.sendall(wire[at : at + cut])
                at += cut
            server.sendall(wire[at:])

        sender = threading.Thread(target=send)
        sender.start()
        stream = Stream(connection, 5)
        assert read_to_the_end(stream) == b"".join(payloads)
        sender.join()
        stream.close()


def test_a_body_of_a_stated_length_ends_with_it() -> None:
    with streaming() as (server, connection):
        head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello"
        stream = open_stream(server, connection, head)
        assert stream.status == 403
        assert stream.read_all(100, 5) == b"hello"
        stream.close()


def test_a_connection_that_ends_in_the_midst_of_a_body_is_broken() -> None:
    with streaming() as (server, connection):
        stream = open_stream(server, connection, HEAD + chunked(b"one"))
        assert stream.read(5) == b"one"
        server.close()
        with pytest.raises(ConnectionError):
            stream.read(5)
        stream.close()


@pytest.mark.parametrize("junk", [b"zz\r\n", b"-5\r\n", b"x" * 2000])
def test_what_is_no_chunk_breaks_the_stream(junk: bytes) -> None:
    with streaming() as (server, connection):
        stream = open_stream(server, connection)
        server.sendall(junk)
        with pytest.raises(ConnectionError, match="no chunk"):
            stream.read(5)
        stream.close()


@pytest.mark.parametrize(
    "head", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"]
)
def test_what_is_no_response_breaks_the_stream(head: bytes) -> None:
    with streaming() as (server, connection):
        server.sendall(head)
        with pytest.raises(ConnectionError):
            Stream(connection, 5)


def test_a_head_without_end_is_not_gathered_for_ever() -> None:
    with streaming() as (server, connection):
        server.sendall(b"HTTP/1.1 200 OK\r\n")
        sender = threading.Thread(target=lambda: server.sendall(b"a: b\r\n" * 30_000))
        sender.start()
        with pytest.raises(ConnectionError, match="no end"):
            Stream(connection, 5)
        connection.close()
        server.close()
        sender.join()


def test_silence_is_a_timeout_and_wake_ends_it_early() -> None:
    with streaming() as (server, connection):
        stream = open_stream(server, connection)
        with pytest.raises(TimeoutError):
            stream.read(0.01)
        stream.wake()
        assert stream.read(60) == b""
        stream.close()


def test_a_nap_gathers_what_comes_meanwhile() -> None:
    with streaming() as (server, connection):
        stream = open_stream(server, connection, HEAD + chunked(b"first"))
        assert stream.read(5) == b"first"
        server.sendall(chunked(b"1"))
        napping = threading.Event()

        class Nap(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                server.sendall(chunked(b"2") + chunked(b"3"))
                napping.set()
                return False

        assert stream.read(5, 0.1, Nap()) == b"123"
        assert napping.is_set()
        stream.close()


@given(EVENTS, st.integers(1, 50))
def test_events_come_out_whole_however_they_are_cut(events: list[bytes], cut: int) -> None:
    data = b"".join(map(framed, events))
    frames = Frames()
    out = [one for at in range(0, len(data), cut) for one in frames.feed(data[at : at + cut])]
    assert out == events


def test_an_event_that_is_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(ConnectionError, match="too long"):
        Frames().feed((1 << 30).to_bytes(4, "big"))
