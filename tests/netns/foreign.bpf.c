// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Somebody else's tc programs: one counts and lets pass, one drops. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} foreign_count SEC(".maps");

SEC("tc") int foreign_pass(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&foreign_count, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	return TC_ACT_OK;
}

SEC("tc") int foreign_drop(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}
