"""The spool on a real file system: order, limits, what damage costs, what a kill never costs."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.delivery.packed import Packed
from retina_otel.delivery.spool.queue import Spool, SpoolLimits, SpoolPlace
from retina_otel.delivery.spool.segments import RECORD_HEADER, SEGMENT_HEADER
from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import ManualClock

LIMITS = SpoolLimits(max_bytes=64 << 20, max_age_s=0)


class Opened(Spool):
    """A spool that remembers what it said."""

    def __init__(
        self, directory: Path, limits: SpoolLimits = LIMITS, clock: ManualClock | None = None
    ) -> None:
        self.said: list[str] = []
        place = SpoolPlace(directory, "otlp-logs", limits)
        super().__init__(place, clock or ManualClock(), self.said.append)

    def put(self, *items: tuple[bytes, int]) -> None:
        """Appends requests, each with its number of items."""
        self.append([Packed(body, "", n_items, len(body)) for body, n_items in items])

    def drain(self) -> list[bytes]:
        """All bodies that are left, in order."""
        bodies = []
        while (request := self.oldest()) is not None:
            bodies.append(request.request.data)
            self.advance(request)
        return bodies


@contextlib.contextmanager
def opened(
    directory: Path, limits: SpoolLimits = LIMITS, clock: ManualClock | None = None
) -> Iterator[Opened]:
    spool = Opened(directory, limits, clock)
    try:
        yield spool
    finally:
        spool.close()


def bodies(n: int, first: int = 0) -> list[bytes]:
    return [b"%06d" % number * (1 + number % 5) for number in range(first, first + n)]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A directory that costs no wait for a disk, for tests that write thousands of times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


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
        assert spool.oldest() is not None
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


def filled(directory: Path, n: int = 6) -> tuple[bytes, list[bytes], list[int]]:
    """Contents of the one segment of a spool with n requests, the requests, where each ends."""
    with opened(directory) as spool:
        ends = []
        for body in bodies(n):
            spool.put((body, 1))
            ends.append(segments(directory)[0].stat().st_size)
    return segments(directory)[0].read_bytes(), bodies(n), ends


def test_cut_at_any_byte_everything_committed_before_it_is_there() -> None:
    with in_memory() as tmp_path:
        whole, all_bodies, ends = filled(tmp_path / "whole")
        name = segments(tmp_path / "whole")[0].name
        for cut in range(len(whole) + 1):
            directory = tmp_path / "cut"
            directory.mkdir(mode=0o700)
            (directory / name).write_bytes(whole[:cut])
            with opened(directory) as spool:
                spool.put((b"next", 1))
                kept = sum(end <= cut for end in ends)
                assert spool.resumed == kept
                assert spool.drain() == [*all_bodies[:kept], b"next"]
                assert (spool.said, dict(spool.lost)) == ([], {})
            shutil.rmtree(directory)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 6))
def test_one_damaged_byte_costs_no_more_than_it_must(place: int, change: int, sent: int) -> None:
    with in_memory() as root:
        whole, all_bodies, ends = filled(root)
        with opened(root) as spool:
            for _ in range(sent):
                request = spool.oldest()
                assert request is not None
                spool.advance(request)
        if not segments(root):
            return
        place %= len(whole)
        damaged = bytearray(whole)
        damaged[place] ^= change
        segments(root)[0].write_bytes(damaged)
        with opened(root) as spool:
            got = spool.drain()
            assert len(spool.said) <= 1
            assert spool.resumed == len(got) + spool.lost.total()
        hit = sum(end <= place for end in ends)
        begin = ([SEGMENT_HEADER, *ends])[hit] if place >= SEGMENT_HEADER else 0
        if place < SEGMENT_HEADER:
            assert got == []
        elif place >= begin + RECORD_HEADER:
            # The body of one record: it alone is lost, if it was not sent already.
            assert got == [b for n, b in enumerate(all_bodies) if n >= sent and n != hit]
            assert spool.lost == ({"spool_corrupt": 1} if hit >= sent else {})
        elif hit >= sent:
            assert got == all_bodies[sent:hit]


def test_damage_is_set_aside_counted_and_said_once(tmp_path: Path) -> None:
    whole, all_bodies, ends = filled(tmp_path)
    path = segments(tmp_path)[0]
    damaged = bytearray(whole)
    for end in ends[1], ends[3]:
        damaged[end - 1] ^= 1
    path.write_bytes(damaged)
    with opened(tmp_path) as spool:
        assert spool.drain() == [all_bodies[n] for n in (0, 2, 4, 5)]
        assert (spool.lost, spool.set_aside) == ({"spool_corrupt": 2}, 1)
        assert len(spool.said) == 1
        assert str(path) in spool.said[0]
        assert [each.name for each in tmp_path.glob("*.*")] == [f"{path.stem}.corrupt"]
    with opened(tmp_path) as spool:
        assert (spool.resumed, spool.said, spool.n_bytes) == (0, [], len(whole))


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """The process may open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_that_may_open_no_file_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, SpoolLimits(1 << 20, 0)) as spool:
        sent = [b"%d" % number * 60_000 for number in range(9)]
        for body in sent:
            spool.put((body, 1))
        with no_more_files():
            assert spool.oldest() is None
        assert (len(spool.said), spool.set_aside) == (1, 0)
        assert spool.drain() == sent
        assert spool.lost == {}


def test_what_was_set_aside_gives_way_first(tmp_path: Path) -> None:
    (tmp_path / f"{7:016d}.corrupt").write_bytes(b"x" * 500_000)
    with opened(tmp_path, SpoolLimits(1 << 20, 0)) as spool:
        for _ in range(9):
            spool.put((b"y" * 100_000, 1))
        assert (spool.n_items, dict(spool.lost)) == (9, {})
        assert list(tmp_path.glob("*.corrupt")) == []
        assert segments(tmp_path)[0].name == f"{8:016d}.segment"


def test_a_spool_of_another_format_is_set_aside(tmp_path: Path) -> None:
    other = SpoolPlace(tmp_path, "other", LIMITS).open(ManualClock(), lambda text: None)
    other.append([Packed(b"not for us", "", 1, 10)])
    other.close()
    with opened(tmp_path) as spool:
        assert spool.drain() == []
        assert "holds 'other'" in spool.said[0]


def test_a_damaged_cursor_sends_again_rather_than_losing(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.put(*((body, 1) for body in bodies(3)))
        request = spool.oldest()
        assert request is not None
        spool.advance(request)
    cursor = tmp_path / "cursor"
    cursor.write_bytes(b"\xff" + cursor.read_bytes()[1:])
    with opened(tmp_path) as spool:
        assert spool.drain() == bodies(3)
        assert "sent again" in spool.said[0]


def test_a_cursor_that_could_not_be_read_once_is_never_believed_again(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for number in range(40):
            spool.put((b"%d" % number * 300_000, 1))
        spool.drain()
    old = (tmp_path / "cursor").read_bytes()
    (tmp_path / "cursor").unlink()
    (tmp_path / "cursor").symlink_to("kept")
    (tmp_path / "kept").write_bytes(old)
    with opened(tmp_path) as spool:
        spool.put((b"new", 1))
        assert len(spool.said) == 1
    assert (tmp_path / "kept").read_bytes() == old
    with opened(tmp_path) as spool:
        assert (spool.drain(), spool.said) == ([b"new"], [])


def test_a_file_that_could_not_be_closed_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def closes_and_fails(fd: int) -> None:
        close(fd)
        fails(fd)

    close = os.close
    with opened(tmp_path / "spool") as spool:
        spool.put((b"sure", 1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            patch.setattr(os, "close", closes_and_fails)
            with pytest.raises(OSError, match="Input/output error"):
                spool.put((b"not sure", 1))
        with (tmp_path / "other").open("w+b"):  # has the descriptor now
            spool.put((b"later", 1))
        assert (tmp_path / "other").read_bytes() == b""
        assert spool.drain() == [b"sure", b"later"]


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"untouched")
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    (directory / f"{1:016d}.segment").symlink_to(secret)
    os.mkfifo(directory / f"{2:016d}.segment")
    (directory / f"{3:016d}.segment").mkdir()
    with opened(directory) as spool:
        spool.put((b"x", 1))
        assert spool.drain() == [b"x"]
    assert secret.read_bytes() == b"untouched"


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond this, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_the_disk_does_not_take_leaves_nothing_behind() -> None:
    with in_memory() as tmp_path:
        whole, _, _ = filled(tmp_path / "whole", 2)
        for room in range(len(whole) + 1):
            directory = tmp_path / str(room)
            with opened(directory) as spool:
                taken = []
                with files_of_at_most(room):
                    for body in bodies(2):
                        with contextlib.suppress(OSError):
                            spool.put((body, 1))
                            taken.append(body)
                assert spool.n_items == len(taken)
                spool.put((b"room again", 1))
            with opened(directory) as spool:
                assert spool.drain() == [*taken, b"room again"]
                assert (spool.said, dict(spool.lost)) == ([], {})


def test_a_group_of_requests_goes_in_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with opened(tmp_path) as spool, files_of_at_most(10_000):
        spool.put((b"x" * 4000, 1), (b"y" * 4000, 1))
        with pytest.raises(OSError, match="too large"):
            spool.put((b"z" * 100, 1), (b"z" * 20_000, 1))
        assert spool.n_items == 2
    with opened(tmp_path) as spool:
        assert spool.drain() == [b"x" * 4000, b"y" * 4000]


def test_what_the_disk_can_not_make_sure_of_was_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as spool:
        spool.put((b"sure", 1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output error"):
                spool.put((b"unsure", 1))
        spool.put((b"sure again", 1))
    with opened(tmp_path) as spool:
        assert spool.drain() == [b"sure", b"sure again"]


def test_a_file_that_begins_after_all_was_sent_is_not_taken_for_one_that_was(
    tmp_path: Path,
) -> None:
    for number in range(3):
        with opened(tmp_path) as spool:
            assert spool.drain() == ([b"%d" % (number - 1)] if number else [])
        with opened(tmp_path) as spool:
            spool.put((b"%d" % number, 1))


STORY = st.lists(st.sampled_from(["append", "send", "reopen", "kill", "peek"]), max_size=40)


@settings(max_examples=100, deadline=None)
@given(STORY, st.randoms(use_true_random=False))
def test_whatever_happens_each_item_is_sent_or_waits(
    story: list[str], chance: random.Random
) -> None:
    appended, sent = 0, 0
    with in_memory() as root, contextlib.ExitStack() as stack:
        spool = stack.enter_context(opened(root))
        for what in story:
            if what == "append":
                n_new = chance.randint(1, 3)
                spool.put(*((b"%d" % (appended + n), 1) for n in range(n_new)))
                appended += n_new
            elif what in ("send", "peek"):
                request = spool.oldest()
                wanted = b"%d" % sent if sent < appended else b""
                assert (request.request.data if request else b"") == wanted
                if request is not None and what == "send":
                    spool.advance(request)
                    sent += 1
            else:
                spool.close()
                if what == "kill" and segments(root):
                    # A process that dies while it appends leaves a part of a record.
                    with segments(root)[-1].open("ab") as file:
                        file.write(b"\x05\0\0\0\1"[: chance.randint(0, 5)])
                spool = stack.enter_context(opened(root))
            assert spool.n_items == appended - sent
        assert spool.drain() == [b"%d" % n for n in range(sent, appended)]
        assert dict(spool.lost) == {}


APPENDER = """
import sys
from pathlib import Path
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.spool.queue import SpoolLimits, SpoolPlace
from retina_otel.testing.exporters import ManualClock

place = SpoolPlace(Path(sys.argv[1]), "otlp-logs", SpoolLimits(64 << 20, 0))
spool = place.open(ManualClock(), print)
for number in range(10**9):
    spool.append([Packed(b"%d" % number, "", 1, 1)])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_what_append_returned_from_survives_a_kill() -> None:
    with in_memory() as tmp_path:
        for lines in (1, 300):
            directory = tmp_path / str(lines)
            command = [sys.executable, "-c", APPENDER, str(directory)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for _ in range(lines):
                    process.stdout.readline()
                process.send_signal(signal.SIGKILL)
                told = lines + len(process.stdout.read().splitlines())
            with opened(directory) as spool:
                got = spool.drain()
                assert got[:told] == [b"%d" % n for n in range(told)]
                # One more may be on the disk, of which the process did not come to tell.
                assert len(got) - told in (0, 1)
                assert spool.said == []
