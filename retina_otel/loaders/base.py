"""`Loaded`: what every loader gives. Above this line nobody can tell which one it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retina_otel.kernel.bpf.btf import Btf


@dataclass(frozen=True, slots=True)
class MapHandle:
    """A loaded map. The descriptor belongs to the `Loaded` it came from."""

    fd: int
    type: int
    """BPF_MAP_TYPE_*."""
    key_dtype: np.dtype[Any]
    value_dtype: np.dtype[Any]
    """For a ring buffer the type of its records, named in the C source by a global pointer
    `rt_ring__<map>`; `V0` if there is none."""
    max_entries: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Maps and programs of one object, open until `close()`. Loading attaches nothing."""

    maps: Mapping[str, MapHandle]
    """By name; data sections are ".bss", ".data", ".rodata"."""
    programs: Mapping[str, int]
    """Descriptors by function name; those left out are missing."""
    btf: Btf
    release: Callable[[], None] = field(repr=False)

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all descriptors. Links and mappings made from them live on. Once is enough."""
        self.release()
