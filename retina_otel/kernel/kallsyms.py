"""Names of kernel functions by address, from /proc/kallsyms.

The file has some 200,000 lines. It is read only when an address turns up that was not asked before,
in blocks, and nothing of it is kept but the answers. So modules loaded later are found as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES = 1 << 20
_DIGITS = 16
_TYPE_AT = _DIGITS + 1
_NAME_AT = _DIGITS + 3
_IS_FUNCTION = np.zeros(256, np.bool_)
_IS_FUNCTION[np.frombuffer(b"tTwW", np.uint8)] = True
_NEWLINE = ord("\n")

HIDDEN = (
    "the kernel hides the addresses of its functions: set kernel.kptr_restrict to 0 or 1, or give "
    "the agent CAP_SYSLOG"
)


class KernelSymbols:
    """Answers once found are kept. Not thread-safe."""

    def __init__(self, path: Path = Path("/proc/kallsyms")) -> None:
        self._path = path
        self._known: dict[int, str] = {}
        self.unavailable = ""
        """Why nothing can be named, with the remedy; empty if names are to be had."""

    def names(self, addresses: Iterable[int]) -> list[str]:
        """The function that each address lies in; "" where that can't be told."""
        asked = list(addresses)
        new = sorted({address for address in asked if address not in self._known})
        if new and not self.unavailable:
            self._known.update(zip(new, self._find(np.array(new, np.uint64)), strict=True))
        return [self._known.get(address, "") for address in asked]

    def _find(self, addresses: npt.NDArray[np.uint64]) -> list[str]:
        best = np.zeros(len(addresses), np.uint64)
        names = [""] * len(addresses)
        seen = False
        try:
            for block in self._blocks():
                starts, values = _functions(block)
                if not len(values):
                    continue
                seen = seen or bool(values.any())
                order = np.argsort(values, kind="stable")
                values, starts = values[order], starts[order]
                at = np.searchsorted(values, addresses, side="right") - 1
                nearest = np.where(at >= 0, values[at], 0)
                for number in np.flatnonzero(nearest > best).tolist():
                    names[number] = _name(block, int(starts[at[number]]))
                best = np.maximum(best, nearest)
        except OSError as error:
            self.unavailable = f"{self._path} can't be read: {error.strerror}"
            return names
        if not seen:
            self.unavailable = HIDDEN
        return names

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, about a megabyte at a time."""
        rest = b""
        with self._path.open("rb") as file:
            # The kernel gives a page a call: `read` goes on until the block is full.
            while more := file.read(_BLOCK_BYTES):
                lines, newline, rest = (rest + more).rpartition(b"\n")
                if lines:
                    yield lines + newline
        if rest:
            yield rest + b"\n"


def _functions(block: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Where the lines of functions start, and their addresses."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    starts = starts[ends - starts > _NAME_AT]
    starts = starts[_IS_FUNCTION[text[starts + _TYPE_AT]]]
    if not len(starts):
        return starts, np.zeros(0, np.uint64)
    digits = np.lib.stride_tricks.sliding_window_view(text, _DIGITS)[starts]
    halves = _of_digits(digits.view(">u8").astype(np.uint64))
    return starts, halves[:, 0] << np.uint64(32) | halves[:, 1]


def _of_digits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The numbers that eight hexadecimal digits each, the first in the highest byte, stand for."""
    # A letter has bit 6, and its low bits begin at 1.
    words = (words & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * (
        words >> np.uint64(6) & np.uint64(0x0101010101010101)
    )
    words = (words | words >> np.uint64(4)) & np.uint64(0x00FF00FF00FF00FF)
    words = (words | words >> np.uint64(8)) & np.uint64(0x0000FFFF0000FFFF)
    return (words | words >> np.uint64(16)) & np.uint64(0xFFFFFFFF)


def _name(block: bytes, start: int) -> str:
    line = block[start + _NAME_AT : block.index(b"\n", start)]
    return line.split(b"\t", 1)[0].decode("ascii", "replace")
