"""Work is done in another namespace without the caller leaving its own."""

from __future__ import annotations

import os
import socket

import pytest

from retina_otel.errors import KernelError
from retina_otel.kernel.net import netns


def test_work_sees_the_other_namespace_and_the_caller_stays(namespace):
    before = netns.own_inode()

    inside = netns.run_in(namespace.path, netns.own_inode)

    assert inside == netns.inode(namespace.path) != before
    assert netns.own_inode() == before


def test_a_descriptor_names_a_namespace_as_well(namespace):
    fd = os.open(namespace.path, os.O_RDONLY)
    assert netns.run_in(fd, socket.if_nameindex) == [(1, "lo")]
    assert netns.inode(fd) == netns.inode(namespace.path)
    os.close(fd)


def test_what_work_raises_is_raised(namespace):
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        netns.run_in(namespace.path, fail)


def test_a_namespace_that_is_not_there_is_an_error():
    with pytest.raises(KernelError, match=r"open: ENOENT.*/run/netns/rt-nowhere.*still exists"):
        netns.run_in("/run/netns/rt-nowhere", netns.own_inode)
    with pytest.raises(KernelError, match=r"stat: ENOENT"):
        netns.inode("/run/netns/rt-nowhere")


def test_a_file_that_is_no_namespace_is_an_error():
    with pytest.raises(KernelError, match="setns: EINVAL"):
        netns.run_in("/etc/hostname", netns.own_inode)


def test_a_new_namespace_is_empty():
    assert netns.run_in_new(socket.if_nameindex) == [(1, "lo")]
