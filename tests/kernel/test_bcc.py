"""The BCC loader gives the same `Loaded` as the other one, and readers can't tell them apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from retina_otel.errors import LoadError
from retina_otel.kernel.bpf import attach, testrun
from retina_otel.kernel.bpf.maps import HashMap
from retina_otel.kernel.bpf.ring import Ring
from retina_otel.loaders import bcc

TEXT = """
#include <linux/skbuff.h>

struct rt_key { u32 ifindex; u32 netns; };
struct rt_value { u64 packets; u64 bytes; };
struct rt_record { u64 sequence; u32 length; u32 ifindex; };

BPF_HASH(counts, struct rt_key, struct rt_value, SIZE);
BPF_RINGBUF_OUTPUT(events, 16);
BPF_ARRAY(rt_ring__events, struct rt_record, 1);

RAW_TRACEPOINT_PROBE(netif_receive_skb)
{
    struct sk_buff *skb = (struct sk_buff *)ctx->args[0];
    struct rt_value zero = {}, *value;
    struct rt_record record = {};
    struct rt_key key = {};
    struct net_device *dev;
    struct net *net;
    u32 length;

    bpf_probe_read_kernel(&dev, sizeof(dev), &skb->dev);
    bpf_probe_read_kernel(&net, sizeof(net), &dev->nd_net.net);
    bpf_probe_read_kernel(&key.ifindex, sizeof(key.ifindex), &dev->ifindex);
    bpf_probe_read_kernel(&key.netns, sizeof(key.netns), &net->ns.inum);
    bpf_probe_read_kernel(&length, sizeof(length), &skb->len);
    if (key.netns != NETNS)
        return 0;
    value = counts.lookup_or_try_init(&key, &zero);
    if (!value)
        return 0;
    record.sequence = __sync_fetch_and_add(&value->packets, 1);
    __sync_fetch_and_add(&value->bytes, length);
    record.length = length;
    record.ifindex = key.ifindex;
    events.ringbuf_output(&record, sizeof(record), 0);
    return 0;
}

int pass_on(struct __sk_buff *skb) { return -1; }
"""
N = 101


def test_a_text_is_compiled_and_read_like_any_object(namespace):
    netns = os.stat(namespace.path).st_ino
    before = sorted(os.listdir("/proc/self/fd"))

    with bcc.load(TEXT, {"pass_on": "SCHED_CLS"}, {"SIZE": 512, "NETNS": netns}) as loaded:
        counts, events = loaded.maps["counts"], loaded.maps["events"]
        program = loaded.programs["raw_tracepoint__netif_receive_skb"]
        with attach.raw_tp(program, "netif_receive_skb"):
            namespace.send(N)

        assert testrun.run(loaded.programs["pass_on"], bytes(64)).retval == 0xFFFFFFFF
        assert counts.max_entries == 512
        assert loaded.btf.dtype("rt_value") == counts.value_dtype
        table = HashMap(counts.fd, counts.key_dtype, counts.value_dtype, counts.max_entries)
        keys, values = table.drain()
        assert keys.tolist() == [(1, netns)]
        assert values.tolist() == [(N, N * (1 + 8 + 20))]
        ring = Ring(events.fd, events.value_dtype, events.max_entries)
        assert ring.drain().tolist() == [(number, 29, 1) for number in range(N)]
        ring.close()

    assert sorted(os.listdir("/proc/self/fd")) == before


def children() -> str:
    return subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True
    ).stdout


def test_nothing_of_the_compiler_stays():
    before = children()
    with bcc.load("int pass_on(struct __sk_buff *skb) { return -1; }", {"pass_on": "SCHED_CLS"}):
        assert children() == before
        with open("/proc/self/maps") as mapped:
            assert not [line for line in mapped if "libbcc" in line or "libLLVM" in line]


@pytest.mark.parametrize(
    ("text", "programs", "said"),
    [
        ("int f(struct __sk_buff *s) { return x; }", {"f": "SCHED_CLS"}, "undeclared identifier"),
        ("int f(struct __sk_buff *s) { return 0; }", {}, "the type of program f was not given"),
        ("BPF_HASH(h, u32, u64);", {"g": "SCHED_CLS"}, "the text has no program g"),
        (
            "BPF_HASH(h, u32, u64); int f(struct __sk_buff *s)"
            "{ u32 k = 0; u64 *v = h.lookup(&k); return (int)*v; }",
            {"f": "SCHED_CLS"},
            "map_value_or_null",
        ),
    ],
)
def test_a_text_that_is_refused_says_where(text, programs, said):
    with pytest.raises(LoadError) as caught:
        bcc.load(text, programs)

    assert said in str(caught.value)
    assert "Correct the program's text" in caught.value.remedy


def test_without_bcc_the_remedy_names_the_package():
    with pytest.raises(LoadError, match=r"no Python here has it.*python3-bpfcc"):
        bcc.load("", interpreters=[sys.executable])
