// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * flows: bytes, packets and TCP flags of each flow, and a ledger of everything that was seen.
 *
 * Hooks: tcx (6.6+) or clsact at both directions of pod interfaces (flows_pod_*) and of uplinks
 * (flows_host_*). Both sorts of packets are seen whole there, before and after segmentation is
 * undone. Every program returns TC_ACT_UNSPEC, so that whoever stands behind it decides.
 * Cost: about 10 ns above an empty program for an established flow (make bench prints it).
 *
 * Generations: user space adds one to `generation`, waits until every program that may have read the
 * old number has finished, then reads the finished half of each table undisturbed.
 */
#include "rt_parse.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define RT_EEXIST 17
#define TC_ACT_UNSPEC (-1)
#define RT_LEDGER_INTERFACES 256
#define RT_GSO_BY_FRAGS 0xffffu /* gso_size of SCTP: segments are whole frames in a list */

const volatile __u32 cfg_slot_bits = 12;
const volatile __u32 cfg_cache = 1;

volatile __u32 generation = 1;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* user space sets: CPUs x 2 parities x 256 interfaces x 2 directions */
	__type(key, __u32);
	__type(value, struct rt_ledger_row);
} flows_ledger SEC(".maps");

/* For interfaces whose place in flows_ledger is another's: the ifindexes are equal modulo 256. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct rt_ledger_key);
	__type(value, struct rt_ledger_row);
} flows_ledger2 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* user space sets: CPUs x 2 parities */
	__type(key, __u32);
	__type(value, struct rt_flow_stats);
} flows_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} flows_ring SEC(".maps");

/* Keeps the ring's record type in BTF, where user space finds it by the ring's name. */
const struct rt_flow_record *rt_ring__flows_ring __attribute__((unused));

enum rt_addition { RT_PLAIN, RT_ATOMIC };

#define RT_TCP_FIN 0x01
#define RT_TCP_SYN 0x02
#define RT_TCP_RST 0x04
#define RT_TCP_PSH 0x08
#define RT_TCP_ACK 0x10
#define RT_TCP_URG 0x20
#define RT_TCP_ECE 0x40
#define RT_TCP_CWR 0x80

/* Plain ACKs, the bulk of all segments, are derived in user space and cost nothing here. */
static __always_inline int rt_has_flags(__u32 flags)
{
	return flags != RT_PLAIN_ACK && flags != RT_NO_TCP;
}

static __always_inline int rt_has_rare_flags(__u32 flags)
{
	return (flags & (RT_TCP_URG | RT_TCP_ECE | RT_TCP_CWR)) ||
	       !(flags & (RT_TCP_SYN | RT_TCP_ACK));
}

static __always_inline void rt_add_flag(__u32 *counter, enum rt_addition how)
{
	if (how == RT_ATOMIC)
		__sync_fetch_and_add(counter, 1);
	else
		*counter += 1;
}

static __always_inline void rt_add_common_flags(__u32 *counters, __u32 flags, enum rt_addition how)
{
	if (flags & RT_TCP_FIN)
		rt_add_flag(&counters[RT_FLAG_FIN], how);
	if (flags & RT_TCP_SYN) {
		if (flags & RT_TCP_ACK)
			rt_add_flag(&counters[RT_FLAG_SYN_ACK], how);
		else
			rt_add_flag(&counters[RT_FLAG_SYN], how);
	}
	if (flags & RT_TCP_RST)
		rt_add_flag(&counters[RT_FLAG_RST], how);
	if (flags & RT_TCP_PSH)
		rt_add_flag(&counters[RT_FLAG_PSH], how);
}

static __always_inline void rt_add_rare_flags(__u32 *counters, __u32 flags)
{
	if (flags & RT_TCP_URG)
		rt_add_flag(&counters[RT_FLAG_URG], RT_ATOMIC);
	if (flags & RT_TCP_ECE)
		rt_add_flag(&counters[RT_FLAG_ECE], RT_ATOMIC);
	if (flags & RT_TCP_CWR)
		rt_add_flag(&counters[RT_FLAG_CWR], RT_ATOMIC);
	if (!(flags & (RT_TCP_SYN | RT_TCP_ACK)))
		rt_add_flag(&counters[RT_FLAG_NO_ACK], RT_ATOMIC);
}

static __always_inline int rt_same4(struct rt_flow4_key *a, struct rt_flow4_key *b)
{
	__u64 *x = (void *)a, *y = (void *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int rt_same6(struct rt_flow6_key *a, struct rt_flow6_key *b)
{
	__u64 *x = (void *)a, *y = (void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/*
 * Two multiplications by odd constants with a fold between them. Sequential ports and addresses,
 * which real clients and pods have, must not meet in one slot: a test pins the spread.
 */
static __always_inline __u64 rt_spread(__u64 a, __u64 b)
{
	__u64 hash = (a ^ (b << 32 | b >> 32)) * 0x9e3779b97f4a7c15ULL;

	hash ^= hash >> 32;
	hash = (hash + b) * 0xc2b2ae3d27d4eb4fULL;
	return hash;
}

static __always_inline __u64 rt_spread4(struct rt_flow4_key *key)
{
	__u64 *words = (void *)key;

	return rt_spread(words[0], words[1]);
}

static __always_inline __u64 rt_spread6(struct rt_flow6_key *key)
{
	__u64 *words = (void *)key;

	return rt_spread(words[0] ^ (words[2] << 7 | words[2] >> 57) ^ words[4],
			 words[1] ^ (words[3] << 7 | words[3] >> 57));
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* as many as slots */
	__type(key, __u32);
	__type(value, struct rt_slot_details);
} flows6_details SEC(".maps");

#define RT_FAMILY 4
#define RT_DETAILS(slot, index) (&(slot)->details)
#include "rt_flow_table.bpf.h"
#undef RT_FAMILY
#undef RT_DETAILS
#define RT_FAMILY 6
#define RT_DETAILS(slot, index) bpf_map_lookup_elem(&flows6_details, index)
#include "rt_flow_table.bpf.h"
#undef RT_FAMILY
#undef RT_DETAILS

/* A row of the ledger for an interface that shares its place, found or made in the second map. */
static __noinline struct rt_ledger_row *rt_ledger_second(__u32 ifindex, __u32 egress, __u32 parity)
{
	struct rt_ledger_key key = {.ifindex = ifindex, .egress = egress, .parity = parity};
	struct rt_ledger_row zero = {.ifindex = ifindex, .egress = egress};
	struct rt_ledger_row *row = bpf_map_lookup_elem(&flows_ledger2, &key);

	if (row)
		return row;
	bpf_map_update_elem(&flows_ledger2, &key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&flows_ledger2, &key);
}

static __always_inline void rt_ledger_add(struct rt_ledger_row *row, struct rt_packet *packet,
					  __u32 bytes, int not_ip)
{
	row->buffers++;
	row->bytes += bytes;
	row->packets += packet->segments;
	row->wire_bytes += packet->wire_bytes;
	if (not_ip) {
		row->not_ip_packets += packet->segments;
		row->not_ip_bytes += packet->wire_bytes;
	}
}

static __noinline int rt_ledger_miss(struct rt_packet *packet, __u32 ifindex, __u32 bytes,
				     __u32 generation_and_not_ip)
{
	__u32 parity = generation_and_not_ip & 1, not_ip = generation_and_not_ip >> 1 & 1;
	struct rt_ledger_row *row;

	if (!packet)
		return 0;
	row = rt_ledger_second(ifindex, !!(packet->meta & RT_META_EGRESS), parity);
	if (!row) {
		__u32 index = bpf_get_smp_processor_id() * 2 + parity;
		struct rt_flow_stats *stats = bpf_map_lookup_elem(&flows_stats, &index);

		if (stats)
			stats->ledger_lost += packet->segments;
		return 0;
	}
	/* Shared between CPUs, unlike the rows of flows_ledger. */
	__sync_fetch_and_add(&row->buffers, 1);
	__sync_fetch_and_add(&row->bytes, bytes);
	__sync_fetch_and_add(&row->packets, packet->segments);
	__sync_fetch_and_add(&row->wire_bytes, packet->wire_bytes);
	if (not_ip) {
		__sync_fetch_and_add(&row->not_ip_packets, packet->segments);
		__sync_fetch_and_add(&row->not_ip_bytes, packet->wire_bytes);
	}
	return 0;
}

static __always_inline void rt_ledger(struct rt_packet *packet, __u32 ifindex, __u32 egress,
				      __u32 cpu, __u32 parity, __u32 bytes, int not_ip)
{
	__u32 index = ((cpu * 2 + parity) * RT_LEDGER_INTERFACES +
		       (ifindex & (RT_LEDGER_INTERFACES - 1))) * 2 + egress;
	struct rt_ledger_row *row = bpf_map_lookup_elem(&flows_ledger, &index);

	if (row && cfg_cache) {
		if (row->ifindex == ifindex) {
			rt_ledger_add(row, packet, bytes, not_ip);
			return;
		}
		if (!row->ifindex) {
			row->ifindex = ifindex;
			row->egress = egress;
			rt_ledger_add(row, packet, bytes, not_ip);
			return;
		}
	}
	rt_ledger_miss(packet, ifindex, bytes, parity | not_ip << 1);
}

/* Wire size of a packet that may still be segmented (TSO) or was put together (GRO). */
static __always_inline void rt_measure(struct __sk_buff *skb, struct rt_packet *packet)
{
	__u32 gso_size = skb->gso_size;

	packet->segments = 1;
	packet->wire_bytes = skb->len;
	if (skb->vlan_present) { /* the tag stands beside the data, the wire has it */
		packet->wire_bytes += 4;
		packet->header_len += 4;
	}
	if (gso_size) {
		__u32 segments = skb->gso_segs;

		/* A guest's or tap's packet may leave the number to whoever segments it. */
		if (!segments)
			segments = gso_size == RT_GSO_BY_FRAGS
					   ? 1
					   : (skb->len - packet->header_len + gso_size - 1) / gso_size;
		packet->segments = segments;
		packet->wire_bytes += (__u64)(segments - 1) * packet->header_len;
	}
}

/* The benchmark spreads one packet over many flows here; it is empty otherwise. */
#ifndef RT_VARY_FLOW
#define RT_VARY_FLOW(family, packet, key4, key6)
#endif

static __always_inline int rt_flows(struct __sk_buff *skb, const __u32 egress, const int uplink)
{
	__u32 ifindex = skb->ifindex, cpu = bpf_get_smp_processor_id(), now_generation = generation;
	struct rt_packet packet = {};
	struct rt_flow4_key key4;
	struct rt_flow6_key key6;
	int family;

	packet.tcp_flags = RT_NO_TCP;
	packet.now = (__u32)bpf_jiffies64();
	packet.meta = ifindex << RT_META_IFINDEX_SHIFT | (egress ? RT_META_EGRESS : 0);
	if (uplink && egress && skb->sk)
		packet.meta |= RT_META_LOCAL_SOCKET;

	family = rt_parse_usual(skb, &packet, &key4, &key6);
	if (family == RT_UNUSUAL) {
		struct rt_flow6_key key = {};

		family = rt_parse_unusual(skb, &packet, &key);
		rt_measure(skb, &packet);
		rt_ledger(&packet, ifindex, egress, cpu, now_generation & 1, skb->len, !family);
		if (family == RT_IPV4) {
			key4.saddr = key.saddr[0];
			key4.daddr = key.daddr[0];
			rt_count4(&key4, &packet, cpu, now_generation);
		} else if (family == RT_IPV6) {
			key.sport = packet.sport;
			key.dport = packet.dport;
			key.meta = packet.meta;
			rt_count_miss6(&key, &packet, now_generation);
		}
		return TC_ACT_UNSPEC;
	}
	RT_VARY_FLOW(family, packet, key4, key6);
	rt_measure(skb, &packet);
	rt_ledger(&packet, ifindex, egress, cpu, now_generation & 1, skb->len, 0);
	if (family == RT_IPV4)
		rt_count4(&key4, &packet, cpu, now_generation);
	else
		rt_count6(&key6, &packet, cpu, now_generation);
	return TC_ACT_UNSPEC;
}

SEC("tc") int flows_pod_in(struct __sk_buff *skb)
{
	return rt_flows(skb, 0, 0);
}

SEC("tc") int flows_pod_out(struct __sk_buff *skb)
{
	return rt_flows(skb, 1, 0);
}

SEC("tc") int flows_host_in(struct __sk_buff *skb)
{
	return rt_flows(skb, 0, 1);
}

SEC("tc") int flows_host_out(struct __sk_buff *skb)
{
	return rt_flows(skb, 1, 1);
}
