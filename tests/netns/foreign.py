"""Programs that stand for somebody else's on the interfaces that we share with them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retina_otel.kernel.bpf import attach
from retina_otel.kernel.bpf.maps import ArrayMap
from retina_otel.loaders import core
from retina_otel.testing.lab import Lab

_SOURCE = Path(__file__).with_name("foreign.bpf.c")
_PINS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True)
class Foreign:
    """The loaded programs. `seen` is what foreign_pass has counted."""

    programs: dict[str, int]
    counter: ArrayMap

    @property
    def seen(self) -> int:
        return int(self.counter.get(0))


@contextmanager
def foreign_programs(folder: Path) -> Iterator[Foreign]:
    target = folder / "foreign.bpf.o"
    subprocess.run(
        [
            *("clang", "-O2", "-g", "-target", "bpf", "-c", str(_SOURCE), "-o", str(target)),
            *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
        ],
        check=True,
    )
    with core.load(str(target)) as loaded:
        counts = loaded.maps["foreign_count"]
        yield Foreign(dict(loaded.programs), ArrayMap(counts.fd, "u8", 1))


def add_filter(lab: Lab, interface: str, prog_fd: int, preference: int) -> None:
    """Adds a clsact filter at ingress by iproute2, as anybody would, through a pinned program."""
    pin = _PINS / f"foreign-{os.getpid()}"
    subprocess.run(["bpftool", "prog", "pin", "id", _program_id(prog_fd), str(pin)], check=True)
    try:
        lab.node.run(
            [
                *("tc", "filter", "add", "dev", interface, "ingress", "pref", str(preference)),
                *("bpf", "da", "pinned", str(pin)),
            ]
        )
    finally:
        pin.unlink()


def add_tcx(lab: Lab, interface: str, prog_fd: int) -> attach.Link:
    """Attaches a program by tcx behind all that is there."""
    ifindex = lab.node.interfaces()[interface]
    return lab.node.call(lambda: attach.tcx(prog_fd, ifindex, True, "last"))


def _program_id(fd: int) -> str:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("prog_id:"))
