// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a packet costs: the flows programs themselves, with one test packet spread over bench_flows
 * flows; beside them an empty program and the yardstick: the plainest exact counter there is, a HASH
 * with atomic additions, with the same parser and the same key.
 */
#define RT_VARY_FLOW(family, packet, key4, key6)                                                   \
	if (bench_flows) {                                                                         \
		__u32 draw = bpf_get_prandom_u32() & (bench_flows - 1);                            \
		packet.sport = draw;                                                               \
		if (family == RT_IPV4)                                                             \
			key4.saddr = draw >> 16 | 0x0a000000;                                      \
		else                                                                               \
			key6.saddr[0] = draw >> 16 | 0xfd000000;                                   \
	}

#include <linux/types.h>
const volatile __u32 bench_flows = 0;

#include "../../bpf/flows.bpf.c"

struct bench_row {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct rt_flow4_key);
	__type(value, struct bench_row);
} bench_hash4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct rt_flow6_key);
	__type(value, struct bench_row);
} bench_hash6 SEC(".maps");

static __always_inline void bench_count(void *map, void *key, __u32 bytes)
{
	struct bench_row one = {.packets = 1, .bytes = bytes};
	struct bench_row *row = bpf_map_lookup_elem(map, key);

	if (row) {
		__sync_fetch_and_add(&row->packets, 1);
		__sync_fetch_and_add(&row->bytes, bytes);
	} else {
		bpf_map_update_elem(map, key, &one, BPF_ANY);
	}
}

SEC("tc") int bench_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

SEC("tc") int bench_yardstick(struct __sk_buff *skb)
{
	struct rt_packet packet = {};
	struct rt_flow4_key key4;
	struct rt_flow6_key key6;
	int family;

	packet.meta = skb->ifindex << RT_META_IFINDEX_SHIFT;
	family = rt_parse_usual(skb, &packet, &key4, &key6);
	RT_VARY_FLOW(family, packet, key4, key6);
	if (family == RT_IPV4) {
		key4.sport = packet.sport;
		key4.dport = packet.dport;
		key4.meta = packet.meta;
		bench_count(&bench_hash4, &key4, skb->len);
	} else if (family == RT_IPV6) {
		key6.sport = packet.sport;
		key6.dport = packet.dport;
		key6.meta = packet.meta;
		bench_count(&bench_hash6, &key6, skb->len);
	}
	return TC_ACT_UNSPEC;
}
