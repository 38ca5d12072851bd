/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Records and keys of the flows object, shared with user space, which reads their layout from this
 * object's BTF. Fixed-width fields, explicit padding, no kernel headers. Addresses and ports are in
 * network order, everything else in host order; times are the low 32 bits of the kernel's jiffies.
 */
#ifndef RT_TYPES_H
#define RT_TYPES_H

/*
 * meta of a key: what a flow is besides its addresses and ports.
 * 22 bits of ifindex: it grows with every pod that was ever started and soon passes 65,535.
 */
#define RT_META_PROTOCOL 0xffu	    /* IP protocol number */
#define RT_META_EGRESS 0x100u	    /* seen at the interface's egress hook */
#define RT_META_LOCAL_SOCKET 0x200u /* at an uplink's egress: sent by a socket of this namespace */
#define RT_META_IFINDEX_SHIFT 10
#define RT_IFINDEX_MAX 0x3fffffu

/* The port fields of ICMP(v6): sport is type << 8 | code, dport the identifier of an echo. */

struct rt_flow4_key {
	__u32 saddr;
	__u32 daddr;
	__u16 sport;
	__u16 dport;
	__u32 meta;
} __attribute__((aligned(8)));

struct rt_flow6_key {
	__u32 saddr[4];
	__u32 daddr[4];
	__u16 sport;
	__u16 dport;
	__u32 meta;
} __attribute__((aligned(8))); /* compared as 64-bit words */

/* TCP flags that are counted; a SYN-ACK is no SYN. Those below RT_FLAGS_IN_SLOT fit into a slot. */
enum rt_tcp_flag {
	RT_FLAG_FIN,
	RT_FLAG_SYN,
	RT_FLAG_SYN_ACK,
	RT_FLAG_RST,
	RT_FLAG_PSH,
	RT_FLAGS_IN_SLOT,
	RT_FLAG_URG = RT_FLAGS_IN_SLOT,
	RT_FLAG_ECE,
	RT_FLAG_CWR,
	RT_FLAG_NO_ACK, /* neither ACK nor SYN: what is left has ACK, so ACKs need no counter */
	RT_FLAGS,
};

/* What an established flow does not touch: when it was first seen, and its more common flags. */
struct rt_slot_details {
	__u32 first;
	__u32 flags[RT_FLAGS_IN_SLOT];
};

/*
 * A slot of the per-CPU cache: the flow that came first in a generation keeps it. 64 bytes, one
 * cache line. It belongs to the generation whose number it holds; nobody clears it.
 */
struct rt_flow4_slot {
	struct rt_flow4_key key;
	__u32 generation;
	__u32 last;
	__u64 packets;
	__u64 bytes;
	struct rt_slot_details details;
};

/* The same for IPv6; its details have no room in the line and stand in an array of their own. */
struct rt_flow6_slot {
	struct rt_flow6_key key;
	__u32 generation;
	__u32 last;
	__u64 packets;
	__u64 bytes;
};

/*
 * A row of the HASH behind the cache. Kept small: with many flows the cost of a packet is that of the
 * cache lines it touches, and most packets have no flag worth counting.
 */
struct rt_flow_row {
	__u64 packets;
	__u64 bytes;
	__u32 first;
	__u32 last;
};

/* TCP flags of flows that have no slot, and the flags that have no room in one. */
struct rt_flag_row {
	__u32 flags[RT_FLAGS];
};

/*
 * What found no place in a HASH: a packet, its flags, or both. family is 4 or 6; a v4 key lies in the
 * front of the v6 key.
 */
struct rt_flow_record {
	__u32 family;
	__u32 generation;
	struct rt_flow6_key key;
	__u64 packets;
	__u64 bytes;
	__u32 last;
	__u32 flags[RT_FLAGS];
	__u32 pad[2];
};

/*
 * Ledger of one interface, direction, CPU and parity of generation: cumulative, counted before any
 * other decision. `buffers` and `bytes` are as the interface's own counters see them (one per skb),
 * `packets` and `wire_bytes` as the wire does (segments, headers repeated).
 */
struct rt_ledger_row {
	__u32 ifindex; /* whose row it is; 0: nobody's */
	__u32 egress;
	__u64 buffers;
	__u64 bytes;
	__u64 packets;
	__u64 wire_bytes;
	__u64 not_ip_packets;
	__u64 not_ip_bytes;
	__u64 pad;
};

struct rt_ledger_key {
	__u32 ifindex;
	__u16 egress;
	__u16 parity;
};

/* Per CPU and parity of generation, cumulative: which way packets went that missed the cache. */
struct rt_flow_stats {
	__u64 hash_packets;
	__u64 ring_packets;
	__u64 lost_packets; /* table full and ring full */
	__u64 lost_bytes;
	__u64 insert_races; /* another CPU inserted the same flow at the same moment; counted, not lost */
	__u64 insert_errors;
	__u64 ledger_lost; /* no ledger row to be had: these packets are missing from `seen` */
	__u64 lost_flags;  /* packets whose flags found no place; the packets themselves may be counted */
};

#endif
