"""Objects as blocks: what goes in comes out, and what is no block is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.identity_service.codec import MOST_BYTES, CodecError, decode_block, encode_block
from retina_otel.kubernetes.objects import (
    EndpointSlice,
    Meta,
    Namespace,
    Node,
    Object,
    OwnerRef,
    Pod,
    RawMetricsConfiguration,
    Service,
    ServicePort,
    Workload,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
TIME = st.one_of(st.just(0), st.integers(0, 2**62), st.integers(0, 10**9).map(lambda s: s * 10**9))
KEYS = ("app", "k8s.io/name", "")
OWNER = st.builds(OwnerRef, TEXT, TEXT, TEXT, TEXT)
MAP = st.dictionaries(st.sampled_from(KEYS), TEXT)
META = st.builds(
    Meta, TEXT, TEXT, TEXT, TEXT, TIME, TIME, TIME, st.one_of(st.none(), OWNER), MAP, MAP
)
PORT = st.builds(ServicePort, TEXT, TEXT, st.integers(0, 65535), st.integers(0, 65535))
OBJECTS: list[st.SearchStrategy[Any]] = [
    st.builds(Pod, META, TEXT, st.booleans(), TEXT, TEXTS, TEXTS, TIME, TIME, TIME, TEXTS),
    st.builds(Service, META, TEXT, TEXTS, TEXTS, st.lists(PORT, max_size=2).map(tuple)),
    st.builds(
        EndpointSlice, META, TEXT, TEXTS, st.lists(st.integers(0, 65535), max_size=2).map(tuple)
    ),
    st.builds(Node, META, TEXTS, TEXTS, TEXT),
    st.builds(Namespace, META),
    st.builds(Workload, META, TEXT, TEXT),
    st.builds(RawMetricsConfiguration, META, TEXT, TEXT),
]


def versions(objects: list[Object]) -> list[str]:
    """Which equality of objects leaves out."""
    return [one.meta.resource_version for one in objects]


@given(st.one_of([st.lists(one, min_size=1, max_size=12) for one in OBJECTS]))
def test_objects_come_out_as_they_went_in(objects: list[Object]) -> None:
    decoded = decode_block(encode_block(objects), KEYS, KEYS)
    assert decoded == objects
    assert versions(decoded) == versions(objects)


def test_pods_of_one_owner_share_it_also_over_blocks() -> None:
    owner = OwnerRef("apps/v1", "ReplicaSet", "web-1", "uid-of-web-1")
    pods = [Pod(Meta(str(n), str(n), "1", owner=replace(owner))) for n in range(4)]
    blocks = encode_block(pods[:1]), encode_block(pods[1:])
    decoded = [one for block in blocks for one in decode_block(block, (), ())]
    assert decoded == pods
    assert len({id(one.meta.owner) for one in decoded}) == 1


def test_columns_that_are_left_out_or_not_known_do_no_harm() -> None:
    pods = [Pod(Meta("a", "1", "1"), containers=("x",)), Pod(Meta("b", "2", "2"), "n")]
    expected = [replace(one, containers=()) for one in pods]
    assert decode_block(encode_block(pods, without=["containers"]), (), ()) == expected
    block = json.loads(zstandard.decompress(encode_block(pods)))
    block["columns"]["later"] = {"v": [1, 2]}
    assert decode_block(zstandard.compress(json.dumps(block).encode()), (), ()) == pods
    block["class"] = "Later"
    assert decode_block(zstandard.compress(json.dumps(block).encode()), (), ()) == []


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        ({"v": ["a"]}, "a column of 2 values is expected"),
        ({"v": ["a", 1]}, "values of type str are expected"),
        ({"d": ["a"], "i": [0, 1]}, "an index is outside its dictionary"),
        ({"d": ["a"], "i": [0, -1]}, "an index is outside its dictionary"),
        ({"d": "ab", "i": [0, 1]}, "the values of a column are a list"),
        ({"c": 1}, "values of type str are expected"),
        ([], "a column is an object"),
    ],
)
def test_a_column_that_is_none_is_refused(column: Any, fault: str) -> None:
    block = {"class": "Namespace", "count": 2, "columns": {"meta.name": column}}
    with pytest.raises(CodecError, match=fault):
        decode_block(zstandard.compress(json.dumps(block).encode()), (), ())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="no frame"),
        pytest.param(zstandard.compress(b"{}"), id="no block"),
        pytest.param(zstandard.compress(b"[" * 100_000), id="nested"),
        pytest.param(zstandard.compress(bytes(MOST_BYTES + 1)), id="bomb"),
        pytest.param(encode_block([Namespace(Meta("a", "1", "1"))])[:-3], id="cut off"),
        pytest.param(
            zstandard.compress(b'{"class": "Pod", "count": 1e9, "columns": {}}'), id="count"
        ),
    ],
)
def test_what_is_no_block_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="Run the same version"):
        decode_block(data, (), ())


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("meta.owner", {"v": [["a", "b", "c"]]}),
        ("meta.owner", {"v": [["a", "b", "c", 1]]}),
        ("ports", {"v": [[["a", "TCP", "80", 0]]]}),
        ("ports", {"v": [[["a"]]]}),
        ("cluster_addresses", {"v": [[1]]}),
    ],
)
def test_a_part_of_an_object_that_is_malformed_is_refused(name: str, column: Any) -> None:
    block = {"class": "Service", "count": 1, "columns": {name: column}}
    with pytest.raises(CodecError):
        decode_block(zstandard.compress(json.dumps(block).encode()), (), ())
