/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Records and keys of the drops object, shared with user space, which reads their layout from this
 * object's BTF. Fixed-width fields, explicit padding. Addresses are in network order, IPv4 as mapped
 * IPv6; ports are in host order; times are ns of CLOCK_MONOTONIC.
 */
#ifndef RT_DROPS_H
#define RT_DROPS_H

/* Reasons of the core are below this (128 on 6.18); higher ones can't be left out by number. */
#define RT_CORE_REASONS 512

/* What was dropped, where and why: all that is left of a packet in a row. 64 bytes. */
struct rt_drop_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__u64 location; /* return address within the function that dropped it */
	__u32 reason;	/* of this kernel's enum skb_drop_reason; subsystem << 16 | number */
	__u32 netns;	/* inode of the network namespace, 0 if it can't be told */
	__u32 ifindex;	/* of the device that held it, in that namespace; 0 if none */
	__u32 iif;	/* of the device it was received at; 0 if it was made here */
	__u16 sport;	/* ports are 0 where the protocol has none, in later fragments, in short packets */
	__u16 dport;
	__u8 version; /* 4, 6; 0: neither, then addresses and protocol are 0 */
	__u8 protocol;
	__u16 pad;
};

struct rt_drop_row {
	__u64 packets;
	__u64 bytes; /* from the network header on, or all of the buffer if that is not known */
	__u64 first;
	__u64 last;
};

/* One packet whose key found no place in the HASH. */
struct rt_drop_record {
	struct rt_drop_key key;
	__u64 bytes;
	__u64 now;
	__u32 generation;
	__u32 pad;
};

/*
 * Ledger of one CPU and parity of generation, in packets, cumulative.
 * seen = hash + ring + lost + insert_failed + not_network + other_netns + unknown_netns + sum(excluded)
 */
struct rt_drop_ledger {
	__u64 seen;
	__u64 hash;
	__u64 ring;
	__u64 lost; /* table full and ring full */
	__u64 insert_failed; /* table not full, but it took no row (busy, no memory); ring full */
	__u64 not_network;   /* buffers of unix and netlink sockets */
	__u64 other_netns;
	__u64 unknown_netns; /* where only some namespaces are asked for, and none can be told */
	__u64 excluded[RT_CORE_REASONS];
};

#endif
