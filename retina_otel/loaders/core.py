"""The default loader: libbpf with CO-RE, on kernels that carry BTF."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from retina_otel.errors import LoadError
from retina_otel.kernel.bpf.btf import Btf, Variable
from retina_otel.kernel.bpf.libbpf import BpfObject, MapSpec
from retina_otel.loaders.base import Loaded, MapHandle

MAP_TYPE_RINGBUF = 27
_U32_SIZE = 4


def load(
    object_path: str,
    constants: Mapping[str, int | bytes] | None = None,
    max_entries: Mapping[str, int] | None = None,
    skip: Collection[str] = (),
) -> Loaded:
    """Loads an object file into the kernel; attaches nothing.

    `constants` sets globals (`const volatile`, or initial values of .data) by name: an int for a
    scalar, bytes of the exact size for anything else. `max_entries` sizes maps by name. Programs
    in `skip` are left out. Raises LoadError, with the end of the verifier's log if it wrote one.
    """
    opened = BpfObject(object_path)
    try:
        btf = Btf(opened.btf_bytes())
        _configure(opened, btf, constants or {}, max_entries or {}, skip)
        opened.load()
        return Loaded(
            maps={spec.name: handle(spec, btf) for spec in opened.maps() if spec.fd >= 0},
            programs={name: fd for name, fd in opened.programs().items() if fd >= 0},
            btf=btf,
            release=opened.close,
        )
    except BaseException:
        opened.close()
        raise


def handle(spec: MapSpec, btf: Btf) -> MapHandle:
    """A map with its types."""
    value = _dtype(btf, spec.value_type_id, spec.value_size)
    if spec.type == MAP_TYPE_RINGBUF:
        value = btf.pointee(f"rt_ring__{spec.name}") or np.dtype("V0")
    return MapHandle(
        fd=spec.fd,
        type=spec.type,
        key_dtype=_dtype(btf, spec.key_type_id, spec.key_size),
        value_dtype=value,
        max_entries=spec.max_entries,
    )


def _dtype(btf: Btf, type_id: int, size: int) -> np.dtype[Any]:
    # A data section is typed by its DATASEC, which has no numpy form: Variables reads it by name.
    if type_id and btf.has_form(type_id):
        return btf.dtype_of(type_id)
    return np.dtype("u4") if size == _U32_SIZE else np.dtype(f"V{size}")


def _configure(
    opened: BpfObject,
    btf: Btf,
    constants: Mapping[str, int | bytes],
    max_entries: Mapping[str, int],
    skip: Collection[str],
) -> None:
    variables = btf.variables() if constants else {}
    for name, value in constants.items():
        if name not in variables:
            raise _unknown("constant", name, opened.path)
        variable = variables[name]
        opened.write_initial(variable.section, variable.offset, _encode(variable, value))
    for name, count in max_entries.items():
        try:
            opened.set_max_entries(name, count)
        except KeyError:
            raise _unknown("map", name, opened.path) from None
    for name in skip:
        try:
            opened.set_autoload(name, False)
        except KeyError:
            raise _unknown("program", name, opened.path) from None


def _encode(variable: Variable, value: int | bytes) -> bytes:
    size = variable.dtype.itemsize
    if isinstance(value, bytes):
        if len(value) != size:
            raise LoadError(
                "constant",
                errno.EINVAL,
                detail=f"{variable.name} has {size} bytes, not {len(value)}",
            )
        return value
    try:
        return int(value).to_bytes(size, "little", signed=variable.dtype.kind == "i")
    except OverflowError:
        raise LoadError(
            "constant", errno.ERANGE, detail=f"{value} does not fit {variable.name}"
        ) from None


def _unknown(what: str, name: str, path: str) -> LoadError:
    return LoadError(
        what,
        errno.ENOENT,
        "Rebuild the BPF objects (make objects): they do not match this version",
        detail=f"{path.rsplit('/', 1)[-1]} has no {name}",
    )
