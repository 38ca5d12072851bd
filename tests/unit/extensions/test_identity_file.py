"""The identity file: what it may say, and what a person is told who wrote it wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retina_otel.errors import ConfigError
from retina_otel.extensions.identity_file import IdentityFile, OwnerEntry, read_identity_file
from retina_otel.model.text_files import MAX_BYTES


def read(folder: Path, text: str) -> IdentityFile:
    path = folder / "identity.yaml"
    path.write_text(text)
    return read_identity_file(path)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


def read_or_remedy(path: Path) -> IdentityFile | str:
    try:
        return read_identity_file(path)
    except ConfigError as error:
        return error.remedy


def test_all_of_the_documented_format_is_read(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        node: {name: node-1, uid: u1, addresses: [172.30.0.2, "fd00::2"]}
        nodes: [{name: node-2, addresses: [172.30.0.3]}]
        pods:
          - namespace: shop
            name: web-0
            uid: u2
            addresses: [10.244.0.10]
            netns: /run/netns/web
            interface: veth3f2a1c
            owner: {kind: Deployment, name: web}
            labels: {app: web}
          - {name: by-inode, netns: 4026532001}
        services: [{namespace: shop, name: api, addresses: [10.96.0.7]}]
        cidrs: [{name: office, cidr: 192.0.2.0/24}]
        """,
    )
    assert file.pods[0].owner == OwnerEntry(kind="Deployment", name="web")
    assert [pod.netns for pod in file.pods] == ["/run/netns/web", 4026532001]
    assert file.pods[1].namespace == "default"
    assert file.cidrs[0].cidr == "192.0.2.0/24"


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == IdentityFile()


def test_an_unknown_key_is_told_with_its_path_and_the_nearest_one(tmp_path: Path) -> None:
    text = "pods: [{name: a}, {name: b, owner: {kind: Job, nmae: c, name: c}}]"
    assert "pods.1.owner.nmae: unknown key, did you mean 'name'?" in fault(tmp_path, text)


def test_an_unknown_key_that_resembles_none_is_told_with_all_there_are(tmp_path: Path) -> None:
    assert "cidrs.0.zzz: unknown key, known here: name, cidr" in fault(
        tmp_path, "cidrs: [{name: a, cidr: 10.0.0.0/8, zzz: 1}]"
    )


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    said = fault(tmp_path, "pods: [{name: a, addresses: [10.0.0.999]}]\nnodes: [{}]")
    assert "pods.0.addresses.0: '10.0.0.999' does not appear to be an IPv4 or IPv6 address" in said
    assert "nodes.0.name: Field required" in said


def test_a_netns_of_a_wrong_type_is_told_by_its_key(tmp_path: Path) -> None:
    said = fault(tmp_path, "pods: [{name: a, netns: [x]}]")
    assert "pods.0.netns: " in said
    assert "pods.0.netns.str" not in said


@pytest.mark.parametrize("text", ["[]", "just text", "pods: {}", "a: [", "\t"])
def test_what_is_no_identity_file_is_one_line(tmp_path: Path, text: str) -> None:
    assert "\n" not in fault(tmp_path, text)


def test_a_path_that_leads_to_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/zero"), tmp_path / "fifo"):
        with pytest.raises(ConfigError) as caught:
            read_identity_file(path)
        assert caught.value.message == f"{path} can't be read: it is not a regular file"


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.yaml"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(ConfigError) as caught:
        read_identity_file(path)
    assert caught.value.message == f"{path} can't be read: it is larger than 16 MiB"


def test_a_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*`path` of the static_identity"):
        read_identity_file(tmp_path / "none.yaml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(data)
    assert read_or_remedy(path)


_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["node", "pods", "name", "owner", "netns", "labels", "x", "cidr", 7]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(_TREES)
def test_any_yaml_is_read_or_refused(tmp_path: Path, tree: object) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert read_or_remedy(path)
