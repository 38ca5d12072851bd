/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet is: addresses, ports, TCP flags and the length of its headers.
 *
 * rt_parse_usual() reads plain Ethernet + IPv4 without options or IPv6 without extension headers
 * straight from the packet; all else (options, extension headers, fragments, tags in the data, other
 * protocols, headers outside the linear part) takes rt_parse_unusual(), which copies header by header
 * and is a function of its own so that the usual path stays small in the instruction cache.
 */
#ifndef RT_PARSE_BPF_H
#define RT_PARSE_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rt_types.h"

#define RT_NO_TCP 0x100u /* flags of what is not TCP, or of a fragment that has no TCP header */
#define RT_PLAIN_ACK 0x10u

#define RT_IP_FRAGMENT_OFFSET 0x1fff
#define RT_IP6_FRAGMENT_OFFSET 0xfff8
/* RFC 8200 lists six kinds of extension headers, each at most once but for destination options. */
#define RT_MAX_EXTENSION_HEADERS 7

struct rt_packet {
	__u16 sport;
	__u16 dport;
	__u32 meta; /* as in a key */
	__u32 tcp_flags;
	__u32 header_len; /* link, network and transport header: what segmentation repeats */
	__u32 now;
	__u32 segments;
	__u64 wire_bytes;
};

enum rt_family { RT_NOT_IP = 0, RT_IPV4 = 4, RT_IPV6 = 6, RT_UNUSUAL = -1 };

static __always_inline int rt_is_echo(__u8 type, int ipv6)
{
	return ipv6 ? (type == 128 || type == 129) : (type == 8 || type == 0);
}

/* Reads a transport header of which at least 8 bytes, for TCP 20, lie in the packet. */
static __always_inline int rt_parse_transport(void *header, void *end, __u32 protocol, int ipv6,
					      __u32 offset, struct rt_packet *packet)
{
	__u8 *bytes = header;
	__u16 *words = header;

	if (protocol == IPPROTO_TCP) {
		if (header + sizeof(struct tcphdr) > end)
			return -1;
		packet->tcp_flags = bytes[13];
		packet->header_len = offset + ((bytes[12] >> 4) << 2);
	} else if (protocol == IPPROTO_UDP) {
		if (header + 8 > end)
			return -1;
		packet->header_len = offset + 8;
	} else if (protocol == (ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		if (header + 8 > end)
			return -1;
		packet->header_len = offset + 8;
		packet->sport = words[0];
		packet->dport = rt_is_echo(bytes[0], ipv6) ? words[2] : 0;
		packet->meta |= protocol;
		return 0;
	} else {
		return -1;
	}
	packet->sport = words[0];
	packet->dport = words[1];
	packet->meta |= protocol;
	return 0;
}

/* Fills packet and the key of its family. RT_UNUSUAL: nothing is filled, ask the other parser. */
static __always_inline int rt_parse_usual(struct __sk_buff *skb, struct rt_packet *packet,
					  struct rt_flow4_key *key4, struct rt_flow6_key *key6)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return RT_UNUSUAL;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return RT_UNUSUAL;
		/* The first byte is version and header length in one: 4 and 5 words. */
		if (*(__u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(RT_IP_FRAGMENT_OFFSET)))
			return RT_UNUSUAL;
		if (rt_parse_transport(ip + 1, end, ip->protocol, 0, ETH_HLEN + sizeof(*ip), packet))
			return RT_UNUSUAL;
		key4->saddr = ip->saddr;
		key4->daddr = ip->daddr;
		return RT_IPV4;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return RT_UNUSUAL;
		if (rt_parse_transport(ip + 1, end, ip->nexthdr, 1, ETH_HLEN + sizeof(*ip), packet))
			return RT_UNUSUAL;
		__builtin_memcpy(key6->saddr, &ip->saddr, 16);
		__builtin_memcpy(key6->daddr, &ip->daddr, 16);
		return RT_IPV6;
	}
	return RT_UNUSUAL;
}

struct rt_extension_header {
	__u8 next;
	__u8 length;
	__u16 fragment;
};

/*
 * Walks IPv6 extension headers from *offset. Returns the transport protocol; *later is set for a
 * fragment without a transport header, or where the chain is cut short.
 */
static __always_inline __u32 rt_skip_extensions(struct __sk_buff *skb, __u32 next, __u32 *offset,
						int *later)
{
	for (int i = 0; i < RT_MAX_EXTENSION_HEADERS; i++) {
		struct rt_extension_header header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (bpf_skb_load_bytes(skb, *offset, &header, sizeof(header))) {
			*later = 1;
			break;
		}
		if (next == IPPROTO_FRAGMENT) {
			*offset += 8;
			*later = (bpf_ntohs(header.fragment) & RT_IP6_FRAGMENT_OFFSET) != 0;
		} else if (next == IPPROTO_AH) {
			*offset += (header.length + 2) * 4;
		} else {
			*offset += (header.length + 1) * 8;
		}
		next = header.next;
		if (*later)
			break;
	}
	return next;
}

/* Any packet. Returns its family, RT_NOT_IP for all that has no IP header that can be read. */
static __noinline int rt_parse_unusual(struct __sk_buff *skb, struct rt_packet *packet,
				       struct rt_flow6_key *key)
{
	__u32 offset = ETH_HLEN, protocol;
	int family, later = 0;
	__u16 ethertype = 0;

	if (!skb || !packet || !key)
		return RT_NOT_IP;
	packet->header_len = ETH_HLEN;
	if (bpf_skb_load_bytes(skb, 12, &ethertype, 2))
		return RT_NOT_IP;
	for (int i = 0; i < 2; i++) {
		if (ethertype != bpf_htons(ETH_P_8021Q) && ethertype != bpf_htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(skb, offset + 2, &ethertype, 2))
			return RT_NOT_IP;
		offset += 4;
	}
	if (ethertype == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.ihl < 5)
			return RT_NOT_IP;
		offset += ip.ihl * 4;
		protocol = ip.protocol;
		later = (bpf_ntohs(ip.frag_off) & RT_IP_FRAGMENT_OFFSET) != 0;
		key->saddr[0] = ip.saddr;
		key->daddr[0] = ip.daddr;
		family = RT_IPV4;
	} else if (ethertype == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
			return RT_NOT_IP;
		offset += sizeof(ip);
		__builtin_memcpy(key->saddr, &ip.saddr, 16);
		__builtin_memcpy(key->daddr, &ip.daddr, 16);
		protocol = rt_skip_extensions(skb, ip.nexthdr, &offset, &later);
		family = RT_IPV6;
	} else {
		return RT_NOT_IP;
	}
	packet->meta |= protocol;
	packet->header_len = offset;
	if (later)
		return family;
	if (protocol == IPPROTO_TCP) {
		struct tcphdr tcp;

		if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
			return family;
		packet->sport = tcp.source;
		packet->dport = tcp.dest;
		packet->tcp_flags = ((__u8 *)&tcp)[13];
		packet->header_len = offset + tcp.doff * 4;
	} else if (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
		   protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP) {
		__u16 ports[2];

		if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
			return family;
		packet->sport = ports[0];
		packet->dport = ports[1];
		packet->header_len = offset + (protocol == IPPROTO_SCTP ? 12 : 8);
	} else if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
		__u16 words[3];

		if (bpf_skb_load_bytes(skb, offset, words, sizeof(words)))
			return family;
		packet->sport = words[0];
		packet->dport = rt_is_echo(*(__u8 *)words, protocol == IPPROTO_ICMPV6) ? words[2] : 0;
		packet->header_len = offset + 8;
	}
	return family;
}

#endif
