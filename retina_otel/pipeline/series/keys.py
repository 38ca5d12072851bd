"""Keys of series: the ids of the attribute sets of source, destination and own, in 64 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Ids = npt.NDArray[np.int32]
_Longs = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]

_ID_BITS = 21
"""Bits of a set id in a key. A process with two million attribute sets has other worries; ids
beyond go to overflow."""
OVERFLOW_KEY = np.uint64((1 << 64) - 1)


def pack(source: _Ids, destination: _Ids, own: _Ids) -> _Keys:
    keys = source.astype(np.uint64)
    keys <<= np.uint64(_ID_BITS)
    keys |= destination.astype(np.uint64)
    keys <<= np.uint64(_ID_BITS)
    keys |= own.astype(np.uint64)
    if len(keys):
        beyond = np.maximum(np.maximum(source, destination), own) >= 1 << _ID_BITS
        if beyond.any():
            keys[beyond] = OVERFLOW_KEY
    return keys


def unpack(keys: _Keys) -> tuple[_Longs, _Longs, _Longs]:
    """Source, destination and own sets of keys."""
    bits, mask = np.uint64(_ID_BITS), np.uint64((1 << _ID_BITS) - 1)
    return (
        (keys >> (bits + bits)).astype(np.int64),
        (keys >> bits & mask).astype(np.int64),
        (keys & mask).astype(np.int64),
    )
