"""Signals: SIGTERM and SIGINT end the agent in order, SIGHUP reads the configuration again.

A second SIGTERM or SIGINT ends the process at once, whatever it is waiting for. The kernel then
detaches what was attached, as it does for an agent that was killed.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from retina_otel.agent.agent import GRACE_S, Agent, works
from retina_otel.agent.logs import ROOT
from retina_otel.config.load import Configuration
from retina_otel.errors import RetinaError
from retina_otel.kernel.allocator import give_back_large_blocks

logger = logging.getLogger(f"{ROOT}.agent")
_STOP = (signal.SIGTERM, signal.SIGINT)
_LAST_WORDS_S = 0.2
"""The log may go to somebody who no longer reads it."""


def supervise(agent: Agent, read_again: Callable[[], Configuration]) -> bool:
    """Starts the agent and waits for its end, in the main thread. True if all ended in time.

    Raises RetinaError if the agent can't start, or what ended it if it was not a signal.
    """
    give_back_large_blocks()
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    asked_to_stop = False

    def note(number: int, frame: FrameType | None) -> None:
        """The number is written by Python itself (set_wakeup_fd)."""
        nonlocal asked_to_stop
        if number in _STOP:
            if asked_to_stop:
                _end_at_once(number)
            asked_to_stop = True

    watched = (*_STOP, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in watched}
    old_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        agent.start()
        logger.info("started: %s", ", ".join(works(agent.status())) or "nothing collects")
        return _wait(agent, read_fd, read_again)
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_fd)
        os.close(write_fd)


def _wait(agent: Agent, read_fd: int, read_again: Callable[[], Configuration]) -> bool:
    while True:
        select.select([read_fd], [], [], 1.0)
        if agent.join(0):
            return True
        for number in _drain(read_fd):
            if number == signal.SIGHUP:
                _reload(agent, read_again)
            elif number in _STOP:
                logger.info("stopping (%s)", signal.Signals(number).name)
                agent.request_stop()
                if not agent.stop():
                    logger.error("stopped, but not everything ended within %.0f s", GRACE_S)
                    return False
                logger.info("stopped")
                return True


def _end_at_once(number: int) -> NoReturn:
    """Ends the process with the exit code that a shell gives for the signal."""
    name = signal.Signals(number).name
    said = threading.Thread(
        target=logger.warning,
        args=("stopped at once (%s again): what was not sent yet is lost", name),
        daemon=True,
    )
    said.start()
    said.join(_LAST_WORDS_S)
    os._exit(128 + number)


def _drain(read_fd: int) -> bytes:
    try:
        return os.read(read_fd, 64)
    except BlockingIOError:
        return b""


def _reload(agent: Agent, read_again: Callable[[], Configuration]) -> None:
    try:
        configuration = read_again()
    except RetinaError as error:
        agent.refuse_reload(error)
    else:
        for warning in configuration.warnings:
            logger.warning("%s", warning)
        agent.reload(configuration)
