// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * sockets: who closed which socket of our network namespace since user space last asked.
 *
 * Hook: cgroup/sock_release at the root of cgroup version 2, so for each socket of the node. A look
 * at the processes (the tasks object) finds the sockets there are; those that came and went between
 * two looks are found here.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rt_tasks.h"
#include "rt_owners.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Inode of our network namespace. */
volatile const __u32 own_netns = 0;

/* Sockets for which there was no room. */
__u64 lost = 0;

const struct rt_owner_row empty_row = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct rt_released);
	__type(value, __u32);
} released SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct rt_owner);
	__type(value, struct rt_owner_row);
} owners SEC(".maps");

static __always_inline void rt_read_owner(struct css_set *set, struct rt_owner *owner)
{
	struct cgroup *unified = BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup *legacy = rt_legacy(set, unified);

	if (unified)
		owner->unified = BPF_CORE_READ(unified, kn, id);
	if (legacy) {
		owner->legacy = BPF_CORE_READ(legacy, kn, id);
		owner->hierarchy = BPF_CORE_READ(legacy, root, hierarchy_id);
	}
}

SEC("cgroup/sock_release")
int sockets_released(struct bpf_sock *context)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct sock *sk = (void *)context;
	struct rt_released key = {};
	struct rt_owner_row *row;
	struct css_set *set;
	__u32 once = 1;

	if (BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) != own_netns ||
	    BPF_CORE_READ(task, flags) & RT_PF_KTHREAD || rt_read_end(sk, &key.end))
		return 1;
	set = BPF_CORE_READ(task, cgroups);
	rt_read_owner(set, &key.owner);
	if (!bpf_map_lookup_elem(&owners, &key.owner)) {
		bpf_map_update_elem(&owners, &key.owner, &empty_row, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&owners, &key.owner);
		if (!row) {
			__sync_fetch_and_add(&lost, 1);
			return 1;
		}
		rt_read_paths((__u64)set, &row->paths);
		__sync_lock_test_and_set(&row->complete, 1);
	}
	if (bpf_map_update_elem(&released, &key, &once, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
	return 1;
}
