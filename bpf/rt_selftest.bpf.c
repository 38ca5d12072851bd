/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Small programs with known effects, to test how Python loads, reads and attaches. Never shipped. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum rt_selftest_color { RT_RED = 1, RT_GREEN = 2 };

struct rt_selftest_inner {
	__u16 port;
	__u8 bytes[3];
	char name[8];
};

struct rt_selftest_key {
	__u32 a;
	__u8 b;
	union {
		__u16 c;
		__u8 c_bytes[2];
	};
};

struct rt_selftest_value {
	__u64 packets;
	__u32 last;
	enum rt_selftest_color color;
	struct rt_selftest_inner inner[2];
	__s32 sign;
};

struct rt_selftest_record {
	__u64 sequence;
	__u32 cpu;
	__u32 check;
};

struct rt_selftest_odd_record {
	__u64 sequence;
	__u32 check;
	__u8 tail;
} __attribute__((packed));

/* 64-bit members: an inlined bpf_loop compares its count as 64 bits, so a packed pair would fail. */
struct rt_selftest_request {
	__u64 first;
	__u64 count;
	__u64 discard_every;
};
const struct rt_selftest_request *rt_request __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct rt_selftest_key);
	__type(value, struct rt_selftest_value);
} rt_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} rt_percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct rt_selftest_value);
} rt_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} rt_ring SEC(".maps");
const struct rt_selftest_record *rt_ring__rt_ring __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} rt_odd_ring SEC(".maps");
const struct rt_selftest_odd_record *rt_ring__rt_odd_ring __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, __u64);
	});
} rt_outer SEC(".maps");

const volatile __u32 rt_constant = 7;
const volatile __u8 rt_prefix[4] = {1, 2, 3, 4};
__u64 rt_packets;
__u64 rt_stopped;
volatile __u32 rt_running;
volatile __u32 rt_release;
__u32 rt_wanted_netns;
__u64 rt_ring_full;
__u32 rt_generation = 3;
__s32 rt_negative = -5;

/* Counts what passes and lets everything pass on to the next program. */
SEC("tc")
int rt_count(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&rt_packets, 1);
	return -1; /* TC_ACT_UNSPEC, TCX_NEXT */
}

/* Counts, and ends the row of programs: what comes behind it sees nothing. */
SEC("tc")
int rt_stop(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&rt_stopped, 1);
	return 0; /* TC_ACT_OK, TCX_PASS */
}

static long spin_one(__u32 i, void *unused)
{
	return rt_release != 0;
}

static long spin_many(__u32 i, void *unused)
{
	bpf_loop(1 << 10, spin_one, NULL, 0);
	return rt_release != 0;
}

/* Runs until it is released, or for some seconds at most, and says while it does. */
SEC("tc")
int rt_slow(struct __sk_buff *skb)
{
	rt_running = 1;
	bpf_loop(1 << 22, spin_many, NULL, 0);
	rt_running = 0;
	return rt_release;
}

/* Holds a record that is reserved and not yet committed, until it is released. */
SEC("tc")
int rt_hold(struct __sk_buff *skb)
{
	struct rt_selftest_record *record;

	record = bpf_ringbuf_reserve(&rt_ring, sizeof(*record), 0);
	if (!record)
		return -1;
	record->sequence = 1000000;
	record->cpu = 0;
	record->check = 1000000u * 2654435761u;
	rt_running = 1;
	bpf_loop(1 << 22, spin_many, NULL, 0);
	rt_running = 0;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tc")
int rt_constant_of(struct __sk_buff *skb)
{
	return rt_constant + rt_prefix[3];
}

static long fill_hash_one(__u32 i, struct rt_selftest_request *request)
{
	struct rt_selftest_key key = {};
	struct rt_selftest_value value = {};

	key.a = request->first + i;
	key.b = i & 0xff;
	value.packets = (request->first + i) * 3;
	value.sign = -1;
	bpf_map_update_elem(&rt_hash, &key, &value, BPF_ANY);
	return 0;
}

SEC("syscall")
int rt_fill_hash(struct rt_selftest_request *given)
{
	struct rt_selftest_request request = *given;

	return bpf_loop(request.count, fill_hash_one, &request, 0) != request.count;
}

static long fill_ring_one(__u32 i, struct rt_selftest_request *request)
{
	__u32 every = request->discard_every;
	struct rt_selftest_record *record;

	record = bpf_ringbuf_reserve(&rt_ring, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&rt_ring_full, 1);
		return 0;
	}
	record->sequence = request->first + i;
	record->cpu = bpf_get_smp_processor_id();
	record->check = (__u32)record->sequence * 2654435761u;
	if (every && (i % every) == 0)
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("syscall")
int rt_fill_ring(struct rt_selftest_request *given)
{
	struct rt_selftest_request request = *given;

	return bpf_loop(request.count, fill_ring_one, &request, 0) != request.count;
}

SEC("syscall")
int rt_fill_odd_ring(struct rt_selftest_request *request)
{
	struct rt_selftest_odd_record record = {
		.sequence = request->first, .check = request->count, .tail = 9};

	return bpf_ringbuf_output(&rt_odd_ring, &record, sizeof(record), 0);
}

SEC("syscall")
int rt_fill_wrong_length(struct rt_selftest_request *request)
{
	__u64 record = request->first;

	return bpf_ringbuf_output(&rt_odd_ring, &record, sizeof(record), 0);
}

SEC("syscall")
int rt_read_outer(struct rt_selftest_request *request)
{
	__u32 index = request->count, zero = 0;
	void *inner = bpf_map_lookup_elem(&rt_outer, &index);
	__u64 *value;

	if (!inner)
		return -1;
	value = bpf_map_lookup_elem(inner, &zero);
	return value ? (int)*value : -2;
}

/* Tracepoints are host-wide: only one namespace is counted, so that a test hears nothing else. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(rt_receive, struct sk_buff *skb)
{
	if (BPF_CORE_READ(skb, dev, nd_net.net, ns.inum) == rt_wanted_netns)
		__sync_fetch_and_add(&rt_packets, 1);
	return 0;
}

SEC("raw_tp/netif_receive_skb")
int rt_raw_receive(struct bpf_raw_tracepoint_args *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx->args[0];

	if (BPF_CORE_READ(skb, dev, nd_net.net, ns.inum) == rt_wanted_netns)
		__sync_fetch_and_add(&rt_packets, 1);
	return 0;
}

SEC("cgroup_skb/egress")
int rt_cgroup_egress(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&rt_packets, 1);
	return 1;
}

/* The verifier must refuse this one: the value is not checked for NULL. */
SEC("tc")
int rt_refused(struct __sk_buff *skb)
{
	struct rt_selftest_key key = {};
	struct rt_selftest_value *value = bpf_map_lookup_elem(&rt_hash, &key);

	return (int)value->packets;
}
