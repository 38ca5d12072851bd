"""Names of interfaces are kept a while after these have gone, and not for ever."""

from __future__ import annotations

from retina_otel.receivers.flows.attachments import Names


def test_only_the_last_interfaces_that_have_gone_are_remembered() -> None:
    names = Names(kept=2)
    for ifindex in (1, 2, 3, 4):
        names.attached(ifindex, f"veth{ifindex}")
    for ifindex in (1, 2, 3):
        names.detached(ifindex)
    assert names.by_ifindex == {2: "veth2", 3: "veth3", 4: "veth4"}


def test_an_interface_that_is_attached_again_is_not_forgotten() -> None:
    names = Names(kept=1)
    names.attached(1, "veth1")
    for _ in range(3):
        names.detached(1)
        names.attached(1, "veth1")
    names.attached(2, "veth2")
    names.detached(2)
    assert names.by_ifindex == {1: "veth1", 2: "veth2"}
    names.detached(1)
    assert names.by_ifindex == {1: "veth1"}
