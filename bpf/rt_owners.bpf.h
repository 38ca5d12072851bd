/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the kernel knows of a process's cgroups and of a socket's local end, read without following
 * a pointer that a BPF program may not follow. Included after vmlinux.h and rt_tasks.h.
 */
#ifndef RT_OWNERS_BPF_H
#define RT_OWNERS_BPF_H

#define RT_MAX_SUBSYSTEMS 16
#define RT_PF_KTHREAD 0x00200000
#define RT_AF_INET 2
#define RT_AF_INET6 10
#define RT_SOCK_RAW 3

/* Renamed to __parent in 6.15. */
struct kernfs_node___old {
	struct kernfs_node *parent;
} __attribute__((preserve_access_index));

struct kernfs_node___new {
	struct kernfs_node *__parent;
} __attribute__((preserve_access_index));

static __always_inline struct kernfs_node *rt_parent(struct kernfs_node *node)
{
	if (bpf_core_field_exists(struct kernfs_node___new, __parent))
		return BPF_CORE_READ((struct kernfs_node___new *)node, __parent);
	return BPF_CORE_READ((struct kernfs_node___old *)node, parent);
}

static __always_inline void rt_read_path(struct cgroup *cgroup, struct rt_cgroup_path *path)
{
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);

	for (int level = 0; level < RT_CGROUP_LEVELS; level++) {
		struct kernfs_node *parent = node ? rt_parent(node) : NULL;

		if (!parent)
			return;
		bpf_probe_read_kernel_str(path->names[level], RT_CGROUP_NAME,
					  BPF_CORE_READ(node, name));
		node = parent;
	}
}

/* Set by user space: a controller is in a hierarchy of version 1. Looking for it is not cheap. */
volatile const __u32 legacy_in_use = 1;

/* A controller is in one hierarchy; where that is version 1 the deepest cgroup tells most. */
static __always_inline struct cgroup *rt_legacy(struct css_set *set, struct cgroup *unified)
{
	struct cgroup_root *unified_root = BPF_CORE_READ(unified, root);
	__u32 count = bpf_core_field_size(set->subsys) / sizeof(void *);
	struct cgroup *found = NULL;
	int depth = 0;

	if (!legacy_in_use)
		return NULL;
	for (__u32 at = 0; at < RT_MAX_SUBSYSTEMS && at < count; at++) {
		struct cgroup_subsys_state *state = NULL;
		struct cgroup *cgroup;
		int level;

		bpf_probe_read_kernel(&state, sizeof(state),
				      (void *)set + bpf_core_field_offset(set->subsys) +
					      at * sizeof(void *));
		if (!state)
			continue;
		cgroup = BPF_CORE_READ(state, cgroup);
		if (!cgroup || BPF_CORE_READ(cgroup, root) == unified_root)
			continue;
		level = BPF_CORE_READ(cgroup, level);
		if (level > depth) {
			depth = level;
			found = cgroup;
		}
	}
	return found;
}

/* Global, so that the verifier follows its many paths once and not with those of each caller. */
__noinline int rt_read_paths(__u64 css_set, struct rt_cgroup_paths *paths)
{
	struct css_set *set = (void *)css_set;
	struct cgroup *unified = BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup *legacy = rt_legacy(set, unified);

	if (!paths)
		return -1;
	if (unified)
		rt_read_path(unified, &paths->unified);
	if (legacy)
		rt_read_path(legacy, &paths->legacy);
	return 0;
}

/* 0, or -1 if it is no socket of TCP, UDP or SCTP, or never had a port. */
static __always_inline int rt_read_end(struct sock *sk, struct rt_end *end)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	/* The other port, skc_num, is 0 again after a reset. */
	__u16 port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));

	if ((family != RT_AF_INET && family != RT_AF_INET6) || !port ||
	    BPF_CORE_READ(sk, sk_type) == RT_SOCK_RAW)
		return -1;
	end->port = port;
	end->protocol = BPF_CORE_READ(sk, sk_protocol);
	end->only_ipv6 = 0;
	if (family == RT_AF_INET) {
		__u32 address = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);

		__builtin_memset(end->address, 0, 10);
		end->address[10] = end->address[11] = 0xff;
		__builtin_memcpy(end->address + 12, &address, 4);
	} else {
		end->only_ipv6 = BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only);
		BPF_CORE_READ_INTO(&end->address, sk, __sk_common.skc_v6_rcv_saddr);
	}
	return 0;
}

#endif
