"""From the low 32 bits of jiffies, as programs stamp packets with, to ns of CLOCK_MONOTONIC.

No system call tells what jiffies are now, so a program of two instructions does, run when asked. A
stamp's time is never after the event, and before it by two ticks (of 1 to 10 ms) at most.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from retina_otel.kernel import syscall
from retina_otel.kernel.bpf import testrun

_CLOCK_MONOTONIC_COARSE: Final = 6
_SOCKET_FILTER: Final = 1
_CALL_JIFFIES64_AND_EXIT = (
    b"\x85\x00\x00\x00" + (118).to_bytes(4, "little") + b"\x95\x00\x00\x00\x00\x00\x00\x00"
)
_SMALLEST_FRAME = bytes(14)
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment in both clocks; good for stamps up to 2^31 ticks (25 days at 1000 Hz) from it."""

    jiffies: int
    """Low 32 bits."""
    monotonic_ns: int
    tick_ns: int

    def monotonic(self, stamps: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """ns of CLOCK_MONOTONIC of n stamps."""
        # The difference wraps as the counter does; read as signed it is right on both sides.
        ticks = (stamps - np.uint32(self.jiffies)).view(np.int32).astype(np.int64)
        ticks *= self.tick_ns
        ticks += self.monotonic_ns
        return ticks


class JiffiesClock:
    """Holds a loaded program until it is closed."""

    def __init__(self) -> None:
        """Raises KernelError where this process may not load programs."""
        # The coarse clock's resolution is a tick, so this is the kernel's HZ without its config.
        self.tick_ns = round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)
        code = ctypes.create_string_buffer(_CALL_JIFFIES64_AND_EXIT, len(_CALL_JIFFIES64_AND_EXIT))
        licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
        self._fd = syscall.bpf(
            syscall.PROG_LOAD,
            syscall.ProgLoad(
                prog_type=_SOCKET_FILTER,
                insn_cnt=len(_CALL_JIFFIES64_AND_EXIT) // 8,
                insns=ctypes.addressof(code),
                license=ctypes.addressof(licence),
                prog_name=b"rt_jiffies",
            ),
        )

    def anchor(self) -> Anchor:
        """Now, in some 50 us. Raises KernelError."""
        # Both advance together, so between two equal readings of one the other stood still too.
        before = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
        for _ in range(_TRIES):
            jiffies = testrun.run(self._fd, _SMALLEST_FRAME).retval
            after = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE)
            if after == before:
                break
            before = after
        return Anchor(jiffies, after, self.tick_ns)

    def close(self) -> None:
        syscall.close_quietly(self._fd)
        self._fd = -1
