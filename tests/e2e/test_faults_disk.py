"""Whatever the disk under a spool does: the books close, and events come or are counted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fault_kit import Kit
from tests.e2e.fault_kits import KITS, WITH_EVENTS
from tests.e2e.faults import Source, Stepped, SteppedClock, no_threads


@pytest.fixture(params=WITH_EVENTS)
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    kit = KITS[request.param]()
    with no_threads():
        yield kit
    kit.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,mode=0700"]
    subprocess.run(["mount", *options, "faults", str(disk)], check=True)
    with no_threads():
        yield disk
    subprocess.run(["umount", str(disk)], check=True)


def exporter(kit: Kit, directory: Path, source: Source | None = None, **settings: Any) -> Stepped:
    clock = SteppedClock()
    chosen = {"interval": "15s", "events_interval": "1s", "spool": {"directory": str(directory)}}
    return Stepped(kit.make(kit.port, **{**chosen, **settings}), clock, source)


def test_a_full_disk_degrades_and_what_memory_holds_goes_on(kit: Kit, small_disk: Path) -> None:
    (small_disk / "others").write_bytes(bytes(40 * 1024))
    stepped = exporter(kit, small_disk / "spool")
    kit.fail(503)
    for _ in range(10):
        stepped.source.tick(300, a=1)
        stepped.run(5)
    on_disk = stepped.ledger.held
    assert 0 < on_disk < 3000
    assert "No space left on device" in stepped.bench.reasons[-1]
    assert (stepped.ledger.lost, stepped.ledger.exports["events"].exported) == ({}, 0)
    kit.work()
    stepped.source.tick(300, a=1)
    stepped.run(60)
    assert stepped.bench.reasons[-1] == ""
    ledger = stepped.stop()
    assert kit.numbers() == list(range(3300))
    assert kit.sums() == stepped.source.truth
    assert (ledger.lost, ledger.held, ledger.exports["events"].exported) == ({}, 0, 3300)


def test_a_disk_that_others_fill_is_used_again_when_there_is_room(
    kit: Kit, small_disk: Path
) -> None:
    with (small_disk / "others").open("wb", buffering=0) as others, suppress(OSError):
        while others.write(bytes(4096)):
            pass
    kit.fail(503)
    stepped = exporter(kit, small_disk / "spool")
    stepped.source.tick(100)
    stepped.run(5)
    assert stepped.ledger.held == 0
    assert "No space left on device" in stepped.bench.reasons[-1]
    (small_disk / "others").unlink()
    stepped.run(5)
    assert stepped.ledger.held == 100
    stepped.kill()
    kit.work()
    second = exporter(kit, small_disk / "spool")
    second.run(20)
    assert kit.numbers() == list(range(100))
    assert second.ledger.beside["events_resumed"] == 100


def test_a_corrupt_spool_costs_what_was_hit_and_is_counted(kit: Kit, tmp_path: Path) -> None:
    kit.fail(503)
    first = exporter(kit, tmp_path / "spool")
    for _ in range(6):
        first.source.tick(50)
        first.run(2)
    assert first.ledger.held == 300
    # The next process begins with a buffer that has none of them.
    first.source.tick()
    first.kill()
    (segment,) = (tmp_path / "spool").glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0x55
    segment.write_bytes(content)
    kit.work()
    second = exporter(kit, tmp_path / "spool", first.source)
    second.source.tick(7)
    second.run(20)
    numbers = kit.numbers()
    missing = sorted(set(range(307)) - set(numbers))
    assert (len(missing), missing[0] % 50) == (50, 0)
    ledger = second.stop()
    assert ledger.lost == {"events_spool_corrupt": 50}
    assert (ledger.beside["events_resumed"], ledger.seen) == (300, 307)
    assert [each.suffix for each in (tmp_path / "spool").glob("0*")] == [".corrupt"]


def test_segments_of_nonsense_are_set_aside_and_new_events_pass(kit: Kit, tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    for number in range(1, 4):
        (directory / f"{number:016d}.segment").write_bytes(b"nonsense" * number)
    stepped = exporter(kit, directory)
    stepped.source.tick(10)
    ledger = stepped.stop()
    assert kit.numbers() == list(range(10))
    assert ledger.beside["spool_set_aside"] == 3
    assert sorted(each.suffix for each in directory.glob("0*")) == [".corrupt"] * 3
