"""The pulse of the agent: when what came while nobody ran has been read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from retina_otel.agent.clock import SystemClock
from retina_otel.agent.pulse import Pulse

SECOND = 1_000_000_000


@dataclass
class HandClock:
    now_ns: int = 100 * SECOND
    put_forward_ns: int = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return 1_000 * SECOND + self.now_ns + self.put_forward_ns

    def offset_ns(self) -> int:
        return 1_000 * SECOND + self.put_forward_ns


def test_while_it_beats_all_is_heard() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    for _ in range(20):
        assert pulse.heard_ns() <= clock.now_ns
        clock.now_ns += SECOND // 4


def test_after_a_gap_all_is_heard_a_second_later() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    clock.now_ns += 4 * SECOND
    resumed_ns = clock.now_ns
    for _ in range(5):
        assert pulse.heard_ns() == resumed_ns + SECOND
        clock.now_ns += SECOND // 4


def test_what_a_clock_that_is_put_forward_makes_old_is_not_heard_of_either() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    clock.put_forward_ns = 8 * SECOND
    assert pulse.heard_ns() == clock.now_ns + SECOND
    clock.put_forward_ns = -8 * SECOND
    assert pulse.heard_ns() == clock.now_ns + SECOND
    clock.now_ns += SECOND // 4
    assert pulse.heard_ns() == clock.now_ns + SECOND * 3 // 4


def test_a_process_that_was_stopped_in_the_midst_of_its_work_notices() -> None:
    """By the thread that beats, while the one that asks works on."""
    script = """
import sys, time
from retina_otel.agent.clock import SystemClock
from retina_otel.agent.pulse import Pulse
clock = SystemClock()
with Pulse(clock) as pulse:
    print("works", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    print(pulse.heard_ns(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1)
        resumed_ns = SystemClock().monotonic_ns()
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        heard_ns = int(process.stdout.readline())
    assert heard_ns > resumed_ns + SECOND
