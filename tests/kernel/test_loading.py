"""Objects are opened, configured and loaded; what is refused says why."""

from __future__ import annotations

import errno
import os

import pytest

from retina_otel.errors import LoadError
from retina_otel.kernel.bpf import testrun
from retina_otel.kernel.bpf.libbpf import load_remedy
from retina_otel.kernel.bpf.maps import Variables
from retina_otel.loaders import core, objects

FRAME = bytes(64)


@pytest.mark.kernels
def test_constants_are_set_by_name(load):
    plain = load()
    changed = load(constants={"rt_constant": 1000, "rt_prefix": b"\0\0\0\x05"})

    assert testrun.run(plain.programs["rt_constant_of"], FRAME).retval == 7 + 4
    assert testrun.run(changed.programs["rt_constant_of"], FRAME).retval == 1000 + 5


def test_initial_values_of_data_are_set_by_name(load):
    loaded = load(constants={"rt_generation": 41, "rt_negative": -2}).loaded

    data = Variables(loaded.maps[".data"].fd, loaded.btf, ".data")

    assert (int(data.rt_generation), int(data.rt_negative)) == (41, -2)


def test_maps_are_sized_by_name(load):
    assert load(max_entries={"rt_hash": 1234}).maps["rt_hash"].max_entries == 1234


@pytest.mark.parametrize(
    "configuration",
    [
        {"constants": {"nowhere": 1}},
        {"max_entries": {"nowhere": 1}},
        {"skip": ["nowhere"]},
    ],
)
def test_an_unknown_name_is_refused_with_a_remedy(configuration):
    with pytest.raises(LoadError, match=r"rt_selftest.bpf.o has no nowhere.*make objects"):
        core.load(objects.path("rt_selftest"), **configuration)


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"rt_constant": 1 << 32}, "4294967296 does not fit rt_constant"),
        ({"rt_constant": -1}, "-1 does not fit rt_constant"),
        ({"rt_prefix": b"abc"}, "rt_prefix has 4 bytes, not 3"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(constants, said):
    with pytest.raises(LoadError, match=said):
        core.load(objects.path("rt_selftest"), constants=constants, skip=["rt_refused"])


@pytest.mark.kernels
def test_a_program_the_verifier_refuses_shows_the_end_of_its_log():
    with pytest.raises(LoadError) as caught:
        core.load(objects.path("rt_selftest"))

    assert caught.value.call == "bpf_object__load"
    assert "map_value_or_null" in caught.value.log_tail
    assert "rt_refused" in caught.value.log_tail
    assert "verifier refused" in caught.value.remedy
    assert str(caught.value).endswith(caught.value.log_tail)


@pytest.mark.parametrize("said", ["invalid func unknown#181", "unknown func bpf_loop#181"])
def test_a_kernel_that_is_too_old_for_a_program_is_told_from_a_fault_of_ours(said):
    """As Linux 5.15 refuses what calls bpf_loop()."""
    log = f"-- BEGIN PROG LOAD LOG --\n14: (85) call {said}\n{said}\n-- END PROG LOAD LOG --"
    assert load_remedy(errno.EINVAL, log) == (
        "Use Linux 5.17 or newer: this one lacks a function that the program calls"
    )


def test_a_skipped_program_is_left_out_and_the_others_load(selftest):
    assert "rt_refused" not in selftest.programs
    assert "rt_count" in selftest.programs


def test_an_object_that_is_not_there_names_the_command_that_builds_it():
    with pytest.raises(LoadError, match=r"nowhere.bpf.o.*make objects"):
        objects.path("nowhere")


def test_a_file_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "text.bpf.o"
    path.write_text("this is no ELF file")

    with pytest.raises(LoadError, match=r"bpf_object__open_file.*text.bpf.o"):
        core.load(str(path))


def test_closing_gives_back_every_descriptor():
    before = sorted(os.listdir("/proc/self/fd"))

    loaded = core.load(objects.path("rt_selftest"), skip=["rt_refused"])
    during = sorted(os.listdir("/proc/self/fd"))
    loaded.close()
    loaded.close()

    assert len(during) > len(before)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_failed_load_gives_back_every_descriptor():
    before = sorted(os.listdir("/proc/self/fd"))

    with pytest.raises(LoadError):
        core.load(objects.path("rt_selftest"))

    assert sorted(os.listdir("/proc/self/fd")) == before
