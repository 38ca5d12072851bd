"""The server of what is asked of the agent: addresses it takes, and clients that misbehave."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from pydantic import TypeAdapter, ValidationError

from retina_otel.serving.address import ListenAddress, parse_address
from retina_otel.serving.server import Handler, Server


class Answer(Handler):
    """As much as no socket buffer holds, so that who leaves early is noticed."""

    def respond(self) -> None:
        self.answer(200, bytes(32 << 20), "application/octet-stream")


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server("127.0.0.1:0", Answer, timeout_s=5.0, logger=logging.getLogger("test.serving"))
    running.start("test")
    yield running
    running.stop()


@pytest.mark.parametrize("text", ["", "9090", "127.0.0.1", "::1:80", "a:b", "a:70000"])
def test_an_address_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValidationError, match=r"no address and port: write it as 127\.0"):
        TypeAdapter(ListenAddress).validate_python(text)


def test_addresses_are_read_with_ipv6_and_without_a_host() -> None:
    assert parse_address("[::1]:9") == ("::1", 9)
    assert parse_address(":9") == ("0.0.0.0", 9)
    assert parse_address("localhost:9") == ("localhost", 9)


def test_a_client_that_leaves_in_the_middle_is_no_traceback(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        answering = set(threading.enumerate()) - before
        # Closed with a reset, as by a probe whose time is over.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for thread in answering:
        thread.join(5)
    assert not any(thread.is_alive() for thread in answering)
    assert capfd.readouterr().err == ""


def test_what_it_answers_names_it(server: Server) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as client:
        client.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        head = b"".join(iter(lambda: client.recv(4096), b""))
    assert b"\r\nServer: retina-otel/" in head
    assert head.endswith(b"\r\n\r\n")


def test_who_hangs_is_bounded_in_number() -> None:
    server = Server("127.0.0.1:0", Answer, timeout_s=0.2, logger=logging.getLogger("test.serving"))
    server.start("test")
    hanging = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(20)]
    # Those beyond the bound are closed at once, the others when their time is over.
    assert [client.recv(1) for client in hanging] == [b""] * 20
    for client in hanging:
        client.close()
    server.stop()


def test_who_sends_a_request_byte_by_byte_has_no_more_time_than_others() -> None:
    server = Server("127.0.0.1:0", Answer, timeout_s=0.2, logger=logging.getLogger("test.serving"))
    server.start("test")
    with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as client:
        client.settimeout(0.05)
        answers = []
        # Ten times as long as a request may take.
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 22:
            try:
                client.sendall(bytes((byte,)))
                answers.append(client.recv(1))
            except TimeoutError:
                continue
            except ConnectionError:
                answers.append(b"")
            break
    assert answers == [b""]
    server.stop()


def test_what_follows_a_request_that_has_a_body_is_not_taken_for_the_next_one(
    server: Server,
) -> None:
    hidden = b"HEAD /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    for length in (b"Content-Length: %d" % len(hidden), b"Transfer-Encoding: chunked"):
        with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as client:
            client.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n%b" % (length, hidden))
            answers = b"".join(iter(lambda: client.recv(4096), b""))
        assert answers.count(b"HTTP/1.1 ") == 1


def test_after_a_stop_a_connection_that_was_kept_open_gets_no_further_answer() -> None:
    """Whoever listens next, after a reload, has the newest to say."""
    server = Server("127.0.0.1:0", Answer, timeout_s=5.0, logger=logging.getLogger("test.serving"))
    server.start("test")
    asked = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", server.port), 5)) as client:
        client.sendall(asked)
        assert client.recv(4096).endswith(b"\r\n\r\n")
        server.stop()
        client.sendall(asked)
        assert client.recv(4096) == b""
