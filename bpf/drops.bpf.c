// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * drops: packets that this node's kernel threw away, by reason, place and pair of ends.
 *
 * Hook: tp_btf/kfree_skb, in every network namespace. Reasons exist since 5.17. Reasons that are no
 * drops are left out by `drops_excluded`, which user space fills by name, since the numbers differ
 * between kernels; they are counted in the ledger, as is everything else that makes no row.
 *
 * Generations: user space adds one to `generation`, waits until every program that may have read the
 * old number has finished, then drains the finished table undisturbed.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "rt_drops.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define RT_EEXIST 17
#define RT_E2BIG 7
#define RT_ETH_P_IP 0x0800
#define RT_ETH_P_IPV6 0x86dd
#define RT_ETH_P_8021Q 0x8100
#define RT_ETH_P_8021AD 0x88a8
#define RT_IP_FRAGMENT_OFFSET 0x1fff
#define RT_IP6_FRAGMENT_OFFSET 0xfff8
/* RFC 8200 lists six kinds of extension headers, each at most once but for destination options. */
#define RT_MAX_EXTENSION_HEADERS 7
#define RT_MAX_VLAN_TAGS 2
#define RT_IPPROTO_HOPOPTS 0
#define RT_IPPROTO_ROUTING 43
#define RT_IPPROTO_FRAGMENT 44
#define RT_IPPROTO_DSTOPTS 60
#define RT_HEADER_UNSET 0xffff
#define RT_DST_PTRMASK (~1UL)

volatile __u32 generation = 1;
/* Whether a namespace that is not in drops_netns is ours. */
volatile __u32 all_namespaces = 1;

struct rt_drop_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct rt_drop_key);
	__type(value, struct rt_drop_row);
};

struct rt_drop_table drops_even SEC(".maps");
struct rt_drop_table drops_odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* user space sets: CPUs x 2 parities */
	__type(key, __u32);
	__type(value, struct rt_drop_ledger);
} drops_ledger SEC(".maps");

/* By number of a core reason: not 0 if it is left out. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RT_CORE_REASONS);
	__type(key, __u32);
	__type(value, __u32);
} drops_excluded SEC(".maps");

/* By inode of a namespace: not 0 if it is ours. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} drops_netns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} drops_ring SEC(".maps");

/* Keeps the ring's record type in BTF, where user space finds it by the ring's name. */
const struct rt_drop_record *rt_ring__drops_ring __attribute__((unused));

/* The tracepoint's record where it has a 4th argument, which is this field. */
struct trace_event_raw_kfree_skb___with_socket {
	void *rx_sk;
} __attribute__((preserve_access_index));

/* The headers of a buffer: where its linear part starts and ends, and offsets into it. */
struct rt_buffer {
	unsigned char *head;
	__u32 data;
	__u32 tail;
	__u32 network;
	__u16 protocol; /* ethertype, host order */
};

static __always_inline int rt_read(const struct rt_buffer *buffer, __u32 offset, void *to,
				   __u32 size)
{
	if (offset + size > buffer->tail)
		return -1;
	return bpf_probe_read_kernel(to, size, buffer->head + offset);
}

static __always_inline void rt_read_ports(const struct rt_buffer *buffer, __u32 offset,
					  struct rt_drop_key *key)
{
	__u16 ports[2];

	switch (key->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (rt_read(buffer, offset, ports, sizeof(ports)))
			return;
		key->sport = bpf_ntohs(ports[0]);
		key->dport = bpf_ntohs(ports[1]);
	}
}

static __always_inline int rt_read_ipv4(const struct rt_buffer *buffer, struct rt_drop_key *key)
{
	struct iphdr ip;

	if (rt_read(buffer, buffer->network, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	key->version = 4;
	key->protocol = ip.protocol;
	key->saddr[10] = key->saddr[11] = key->daddr[10] = key->daddr[11] = 0xff;
	__builtin_memcpy(key->saddr + 12, &ip.saddr, 4);
	__builtin_memcpy(key->daddr + 12, &ip.daddr, 4);
	if (!(bpf_ntohs(ip.frag_off) & RT_IP_FRAGMENT_OFFSET))
		rt_read_ports(buffer, buffer->network + ip.ihl * 4, key);
	return 0;
}

static __always_inline int rt_read_ipv6(const struct rt_buffer *buffer, struct rt_drop_key *key)
{
	__u32 offset = buffer->network + sizeof(struct ipv6hdr);
	struct ipv6hdr ip;
	struct {
		__u8 next;
		__u8 length;
		__u16 fragment;
	} extension;

	if (rt_read(buffer, buffer->network, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	key->version = 6;
	key->protocol = ip.nexthdr;
	__builtin_memcpy(key->saddr, &ip.saddr, 16);
	__builtin_memcpy(key->daddr, &ip.daddr, 16);
	for (int i = 0; i < RT_MAX_EXTENSION_HEADERS; i++) {
		if (key->protocol != RT_IPPROTO_HOPOPTS && key->protocol != RT_IPPROTO_ROUTING &&
		    key->protocol != RT_IPPROTO_FRAGMENT && key->protocol != RT_IPPROTO_DSTOPTS &&
		    key->protocol != IPPROTO_AH)
			break;
		if (rt_read(buffer, offset, &extension, sizeof(extension)))
			return 0;
		if (key->protocol == RT_IPPROTO_FRAGMENT) {
			key->protocol = extension.next;
			if (bpf_ntohs(extension.fragment) & RT_IP6_FRAGMENT_OFFSET)
				return 0;
			offset += 8;
			continue;
		}
		offset += key->protocol == IPPROTO_AH ? (extension.length + 2) * 4
						      : (extension.length + 1) * 8;
		key->protocol = extension.next;
	}
	rt_read_ports(buffer, offset, key);
	return 0;
}

/*
 * Buffers are dropped at every stage of their lives. A network header offset of 0 was never set: what
 * comes from a driver then has it where data points, behind the link header that is already pulled.
 */
static __always_inline void rt_find_network_header(struct sk_buff *skb, struct rt_buffer *buffer)
{
	buffer->head = skb->head;
	buffer->data = skb->data - buffer->head;
	buffer->tail = skb->tail;
	buffer->protocol = bpf_ntohs(skb->protocol);
	buffer->network = skb->network_header;
	if (!buffer->network || buffer->network == RT_HEADER_UNSET)
		buffer->network = buffer->data;
}

static __always_inline void rt_skip_vlan_tags(struct rt_buffer *buffer)
{
	__u16 ethertype;

	for (int i = 0; i < RT_MAX_VLAN_TAGS; i++) {
		if (buffer->protocol != RT_ETH_P_8021Q && buffer->protocol != RT_ETH_P_8021AD)
			return;
		if (rt_read(buffer, buffer->network + 2, &ethertype, sizeof(ethertype)))
			return;
		buffer->protocol = bpf_ntohs(ethertype);
		buffer->network += 4;
	}
}

/*
 * skb->dev of a datagram in a UDP socket's queue is no pointer (dev_scratch), so everything behind it
 * is read with a check; what can't be read is 0.
 */
static __always_inline void rt_read_place(struct sk_buff *skb, struct sock *rx_sk,
					  struct rt_drop_key *key)
{
	struct net_device *dev = skb->dev;
	struct dst_entry *dst = (struct dst_entry *)(skb->_skb_refdst & RT_DST_PTRMASK);
	struct sock *sk = rx_sk ? rx_sk : skb->sk;

	key->iif = skb->skb_iif;
	if (dev) {
		key->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
		key->ifindex = key->netns ? BPF_CORE_READ(dev, ifindex) : 0;
	}
	if (!key->netns && sk)
		key->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (!key->netns && dst)
		key->netns = BPF_CORE_READ(dst, dev, nd_net.net, ns.inum);
	if (!key->ifindex)
		key->ifindex = key->iif;
}

static __always_inline struct rt_drop_row *rt_row(void *table, const struct rt_drop_key *key,
						  __u64 now, long *error)
{
	struct rt_drop_row *row = bpf_map_lookup_elem(table, key);
	struct rt_drop_row empty = {.first = now, .last = now};

	if (row)
		return row;
	*error = bpf_map_update_elem(table, key, &empty, BPF_NOEXIST);
	/* EEXIST: another CPU was first, and its row is as good. */
	if (!*error || *error == -RT_EEXIST)
		return bpf_map_lookup_elem(table, key);
	return NULL;
}

static __always_inline void rt_count(const struct rt_drop_key *key, __u64 bytes, __u32 now_generation,
				     struct rt_drop_ledger *ledger)
{
	__u64 now = bpf_ktime_get_ns();
	struct rt_drop_record *record;
	struct rt_drop_row *row;
	long error = 0;

	row = now_generation & 1 ? rt_row(&drops_odd, key, now, &error)
				 : rt_row(&drops_even, key, now, &error);
	if (row) {
		__sync_fetch_and_add(&row->packets, 1);
		__sync_fetch_and_add(&row->bytes, bytes);
		row->last = now;
		__sync_fetch_and_add(&ledger->hash, 1);
		return;
	}
	record = bpf_ringbuf_reserve(&drops_ring, sizeof(*record), 0);
	if (record) {
		record->key = *key;
		record->bytes = bytes;
		record->now = now;
		record->generation = now_generation;
		record->pad = 0;
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
		__sync_fetch_and_add(&ledger->ring, 1);
		return;
	}
	if (error == -RT_E2BIG)
		__sync_fetch_and_add(&ledger->lost, 1);
	else
		__sync_fetch_and_add(&ledger->insert_failed, 1);
}

SEC("tp_btf/kfree_skb")
int drops_kfree_skb(__u64 *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx[0];
	__u32 reason = ctx[2], now_generation = generation, index;
	struct rt_drop_key key = {};
	struct rt_drop_ledger *ledger;
	struct rt_buffer buffer = {};
	struct sock *rx_sk = NULL;
	__u32 *excluded, *ours;
	__s64 bytes;

	if (bpf_core_field_exists(struct trace_event_raw_kfree_skb___with_socket, rx_sk))
		rx_sk = (struct sock *)ctx[3];

	index = bpf_get_smp_processor_id() * 2 + (now_generation & 1);
	ledger = bpf_map_lookup_elem(&drops_ledger, &index);
	if (!ledger)
		return 0;
	__sync_fetch_and_add(&ledger->seen, 1);

	rt_read_place(skb, rx_sk, &key);
	ours = key.netns ? bpf_map_lookup_elem(&drops_netns, &key.netns) : NULL;
	if (key.netns && !(ours ? *ours : all_namespaces)) {
		__sync_fetch_and_add(&ledger->other_netns, 1);
		return 0;
	}
	excluded = bpf_map_lookup_elem(&drops_excluded, &reason);
	if (excluded && *excluded) {
		__sync_fetch_and_add(&ledger->excluded[reason & (RT_CORE_REASONS - 1)], 1);
		return 0;
	}
	if (!key.ifindex && !skb->protocol) {
		__sync_fetch_and_add(&ledger->not_network, 1);
		return 0;
	}
	if (!all_namespaces && !key.netns) {
		__sync_fetch_and_add(&ledger->unknown_netns, 1);
		return 0;
	}
	rt_find_network_header(skb, &buffer);
	rt_skip_vlan_tags(&buffer);
	bytes = (__s64)skb->len + buffer.data - buffer.network;
	if (buffer.protocol == RT_ETH_P_IP)
		rt_read_ipv4(&buffer, &key);
	else if (buffer.protocol == RT_ETH_P_IPV6)
		rt_read_ipv6(&buffer, &key);
	key.location = ctx[1];
	key.reason = reason;
	rt_count(&key, bytes > 0 ? bytes : skb->len, now_generation, ledger);
	return 0;
}
