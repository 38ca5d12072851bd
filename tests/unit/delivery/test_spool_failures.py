"""The spool when files are damaged, writes fail, or the agent is killed: what it costs."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.delivery.packed import Packed
from retina_otel.delivery.spool.queue import SpoolLimits, SpoolPlace
from retina_otel.delivery.spool.segments import RECORD_HEADER, SEGMENT_HEADER
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.file_limits import files_of_at_most, no_more_files
from tests.unit.delivery.opened_spool import LIMITS, bodies, filled, in_memory, opened, segments


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
