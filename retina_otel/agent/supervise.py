"""Signals: SIGTERM and SIGINT end the agent in order, SIGHUP reads the configuration again."""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from types import FrameType

from retina_otel.agent.agent import GRACE_S, Agent, works
from retina_otel.agent.logs import ROOT
from retina_otel.config.load import Configuration
from retina_otel.errors import RetinaError
from retina_otel.kernel.allocator import give_back_large_blocks

logger = logging.getLogger(f"{ROOT}.agent")
_STOP = (signal.SIGTERM, signal.SIGINT)


def supervise(agent: Agent, read_again: Callable[[], Configuration]) -> bool:
    """Starts the agent and waits for its end, in the main thread. True if all ended in time.

    Raises RetinaError if the agent can't start, or what ended it if it was not a signal.
    """
    give_back_large_blocks()
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(number: int, frame: FrameType | None) -> None:
        """The number is written by Python itself (set_wakeup_fd)."""

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
