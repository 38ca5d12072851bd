"""The spool on a real file system: order, whose its directory is, limits of size and age."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from retina_otel.delivery.spool.queue import SpoolLimits
from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.opened_spool import Opened, bodies, in_memory, opened, segments


def test_what_goes_in_comes_out_in_order_and_once(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        for body in bodies(100):
            spool.put((body, 2))
        assert spool.n_items == 200
        assert spool.drain() == bodies(100)
        assert (spool.n_items, dict(spool.lost), spool.resumed) == (0, {}, 0)


def test_what_was_not_sent_is_there_for_the_next_process(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.put(*((body, 3) for body in bodies(10)))
        for _ in range(4):
            request = spool.oldest()
            assert request is not None
            spool.advance(request)
        # Looked at, and not taken.
        request = spool.oldest()
        assert request is not None
        assert [request.request.data] == bodies(1, 4)
    with opened(tmp_path) as spool:
        assert (spool.resumed, spool.n_items) == (18, 18)
        spool.put((b"new", 1))
        assert spool.drain() == [*bodies(6, 4), b"new"]
    with opened(tmp_path) as spool:
        assert (spool.resumed, spool.drain()) == (0, [])


def test_a_spool_that_was_sent_leaves_at_most_one_small_file() -> None:
    with in_memory() as tmp_path:
        with opened(tmp_path, SpoolLimits(1 << 20, 0)) as spool:
            for number in range(300):
                spool.put((b"%d" % number * 1000, 1))
                spool.drain()
            assert len(segments(tmp_path)) <= 1
        with opened(tmp_path):
            assert segments(tmp_path) == []


def test_only_the_agent_may_read_it(tmp_path: Path) -> None:
    with opened(tmp_path / "new") as spool:
        spool.put((b"who talks to whom", 1))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in spool.directory.iterdir()}
        assert modes == {"cursor": 0o600, segments(spool.directory)[0].name: 0o600}
        assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700


def test_directories_that_were_made_are_on_the_disk_before_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(call: Callable[[int], None]) -> Callable[[int], None]:
        def noted(fd: int) -> None:
            synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
            call(fd)

        return noted

    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", noting(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noting(os.fdatasync))
    for _ in range(2):
        with opened(tmp_path / "a" / "b") as spool:
            spool.put((b"x", 1))
    assert synced == ["a", ".", "a/b", f"a/b/{1:016d}.segment", "a/b", f"a/b/{2:016d}.segment"]


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigError, match="in use") as error:
        Opened(tmp_path)
    assert "spool.directory" in error.value.remedy
    with opened(tmp_path):
        pass


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="by others") as error:
        Opened(tmp_path)
    assert "0700" in error.value.remedy
    with opened(tmp_path / "own"):
        pass


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To give a directory away one would have to be root.
    found = list(tmp_path.stat())
    found[stat.ST_UID] = 12345
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result(found))
    with pytest.raises(ConfigError, match="user 12345") as error:
        Opened(tmp_path)
    assert "Give it to the agent's user" in error.value.remedy


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_directory_that_can_not_be_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"spool's directory .* can't be used") as error:
        Opened(tmp_path / name)
    assert "spool.directory" in error.value.remedy


def test_beyond_the_size_the_oldest_are_thrown_away_and_counted() -> None:
    with in_memory() as root, opened(root, SpoolLimits(1 << 20, 0)) as spool:
        for number in range(3000):
            spool.put((b"%06d" % number * 100, 2))
            assert sum(each.stat().st_size for each in segments(root)) <= 1 << 20
        left = spool.n_items // 2
        assert spool.lost == {"spool_full": 2 * (3000 - left)}
        assert left * 600 > (1 << 20) * 0.8
        assert spool.drain() == [b"%06d" % n * 100 for n in range(3000 - left, 3000)]


def test_what_is_being_sent_while_it_is_thrown_away_is_counted_once(tmp_path: Path) -> None:
    for settled in (True, False):
        with opened(tmp_path / str(settled), SpoolLimits(1 << 20, 0)) as spool:
            spool.put((b"first", 1))
            request = spool.oldest()
            assert request is not None
            for _ in range(20):
                spool.put((b"x" * 100_000, 1))
            lost = spool.lost["spool_full"]
            if settled:
                spool.advance(request)
                assert spool.n_items + lost == 20
            else:
                spool.oldest()
                assert spool.n_items + spool.lost["spool_full"] == 21


def test_what_is_too_old_is_thrown_away_and_counted(tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(tmp_path, SpoolLimits(1 << 20, 60), clock) as spool:
        spool.put((b"old", 2))
        clock.advance(40)
        spool.put((b"young", 1))
        clock.advance(30)
        assert spool.drain() == [b"young"]
        assert spool.lost == {"expired": 2}


class SteppedClock(ManualClock):
    """A wall clock that is set; the monotonic one goes on."""

    step_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.step_ns


@pytest.mark.parametrize("days", [-400, 400])
def test_a_step_of_the_wall_clock_ages_nothing(tmp_path: Path, days: int) -> None:
    clock = SteppedClock()
    with opened(tmp_path, SpoolLimits(1 << 20, 60), clock) as spool:
        spool.put((b"before", 1))
        clock.step_ns = days * 86400 * 10**9
        spool.put((b"after", 1))
        clock.advance(50)
        assert spool.drain() == [b"before", b"after"]
        spool.put((b"later", 1))
        clock.advance(61)
        assert spool.drain() == []
        assert spool.lost == {"expired": 1}


def test_age_counts_across_processes(tmp_path: Path) -> None:
    with opened(tmp_path, SpoolLimits(1 << 20, 60), ManualClock(10**18)) as spool:
        spool.put((b"old", 1))
    with opened(tmp_path, SpoolLimits(1 << 20, 60), ManualClock(10**18 + 61 * 10**9)) as spool:
        assert (spool.drain(), dict(spool.lost)) == ([], {"expired": 1})


def test_a_file_that_begins_after_all_was_sent_is_not_taken_for_one_that_was(
    tmp_path: Path,
) -> None:
    for number in range(3):
        with opened(tmp_path) as spool:
            assert spool.drain() == ([b"%d" % (number - 1)] if number else [])
        with opened(tmp_path) as spool:
            spool.put((b"%d" % number, 1))
