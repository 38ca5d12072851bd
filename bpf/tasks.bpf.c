// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * tasks: whose each network namespace of the node is, and whose each socket of our own.
 *
 * Attached to nothing: user space runs it, and one run reads everything inside one RCU section, so
 * that no process it meets is freed on the way. It follows the kernel's own list of processes and
 * not an iter/task, which shows no more than the reader's pid namespace: in a pod, the agent itself.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rt_tasks.h"
#include "rt_owners.bpf.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define RT_MAX_TASKS (1 << 22)
#define RT_MAX_FDS (1 << 20)
/* Looked at in one run: 0.2 us for each, 1 us for a socket, and the CPU may do nothing else. */
#define RT_MAX_OPEN (1 << 18)
#define RT_MAX_NSIDS (1 << 16)
#define RT_S_IFMT 0170000
#define RT_S_IFSOCK 0140000
#define RT_SOCKFS_MAGIC 0x534f434b
#define RT_XA_INTERNAL 2
#define RT_XA_LEVELS 3

/* Set by user space before a run. */
volatile __u32 want_sockets = 0;

/* Set by the run. */
__u32 own_netns = 0;
__u32 nsids_count = 0;
__u32 sockets_count = 0;
__u32 tasks_count = 0;
__u32 fds_count = 0;
__u32 tasks_lost = 0;
__u32 sockets_lost = 0;
__u32 fds_lost = 0;

const struct rt_task_row empty_row = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct rt_task_key);
	__type(value, struct rt_task_row);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct rt_nsid);
} nsids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct rt_socket);
} sockets SEC(".maps");

struct rt_walk {
	struct task_struct *first;
	struct task_struct *task;
	struct net *own;
};

struct rt_files {
	struct file **array;
	__u64 cgroups;
	struct net *own;
};

struct rt_ids {
	void *head;
};

static __always_inline void rt_keep_task(struct task_struct *task, struct css_set *set,
					 __u32 netns)
{
	struct rt_task_key key = {.cgroups = (__u64)set, .netns = netns};
	struct rt_task_row *row;

	if (bpf_map_lookup_elem(&tasks, &key))
		return;
	if (bpf_map_update_elem(&tasks, &key, &empty_row, BPF_NOEXIST)) {
		tasks_lost++;
		return;
	}
	row = bpf_map_lookup_elem(&tasks, &key);
	if (!row)
		return;
	row->pid = BPF_CORE_READ(task, tgid);
	rt_read_paths((__u64)set, &row->paths);
}

static __always_inline void rt_keep_socket(struct sock *sk, __u64 cgroups)
{
	struct rt_end end = {};
	struct rt_socket *found;
	__u32 at = sockets_count;

	if (rt_read_end(sk, &end))
		return;
	found = bpf_map_lookup_elem(&sockets, &at);
	if (!found) {
		sockets_lost++;
		return;
	}
	sockets_count = at + 1;
	found->cgroups = cgroups;
	found->end = end;
}

static long rt_visit_file(__u32 index, void *context)
{
	struct rt_files *files = context;
	struct file *file = NULL;
	struct socket *socket;
	struct inode *inode;
	struct sock *sk;

	bpf_probe_read_kernel(&file, sizeof(file), files->array + index);
	if (!file)
		return 0;
	if (fds_count >= RT_MAX_OPEN) {
		fds_lost++;
		return 0;
	}
	fds_count++;
	inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & RT_S_IFMT) != RT_S_IFSOCK ||
	    BPF_CORE_READ(inode, i_sb, s_magic) != RT_SOCKFS_MAGIC)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	sk = socket ? BPF_CORE_READ(socket, sk) : NULL;
	if (sk && BPF_CORE_READ(sk, __sk_common.skc_net.net) == files->own)
		rt_keep_socket(sk, files->cgroups);
	return 0;
}

static __always_inline void rt_visit_files(struct rt_walk *walk, struct task_struct *task,
					   struct css_set *set)
{
	struct files_struct *held = BPF_CORE_READ(task, files);
	struct fdtable *table = BPF_CORE_READ(held, fdt);
	struct rt_files files = {.cgroups = (__u64)set, .own = walk->own};
	__u32 before = sockets_count;
	__u32 count;

	if (!table)
		return;
	count = BPF_CORE_READ(table, max_fds);
	files.array = BPF_CORE_READ(table, fd);
	bpf_loop(count < RT_MAX_FDS ? count : RT_MAX_FDS, rt_visit_file, &files, 0);
	/* RCU does not keep it: when the process let go of it, this may have been another's. */
	if (BPF_CORE_READ(task, files) != held)
		sockets_count = before;
}

static long rt_visit_task(__u32 index, void *context)
{
	struct rt_walk *walk = context;
	struct task_struct *task = walk->task;
	struct list_head *next = BPF_CORE_READ(task, tasks.next);
	struct nsproxy *namespaces = BPF_CORE_READ(task, nsproxy);

	walk->task = (void *)next - bpf_core_field_offset(struct task_struct, tasks);
	if (namespaces && !(BPF_CORE_READ(task, flags) & RT_PF_KTHREAD)) {
		struct net *net = BPF_CORE_READ(namespaces, net_ns);
		struct css_set *set = BPF_CORE_READ(task, cgroups);
		__u32 netns = BPF_CORE_READ(net, ns.inum);

		/* Nor is this kept by RCU: of a process that ends it may be another's by now. */
		if (BPF_CORE_READ(task, nsproxy) == namespaces) {
			tasks_count++;
			rt_keep_task(task, set, netns);
			if (want_sockets && net == walk->own)
				rt_visit_files(walk, task, set);
		}
	}
	return walk->task == walk->first;
}

/* net->netns_ids is an XArray: inner entries end in 10, what is left is a pointer. */
static long rt_visit_nsid(__u32 id, void *context)
{
	struct rt_ids *ids = context;
	void *entry = ids->head;
	struct rt_nsid *found;
	__u32 at = nsids_count;

	if (((__u64)entry & 3) != RT_XA_INTERNAL && id)
		return 1;
	for (int level = 0; level < RT_XA_LEVELS; level++) {
		struct xa_node *node;
		__u32 slots, shift;

		if (((__u64)entry & 3) != RT_XA_INTERNAL)
			break;
		node = (void *)((__u64)entry - RT_XA_INTERNAL);
		slots = bpf_core_field_size(node->slots) / sizeof(void *);
		shift = BPF_CORE_READ(node, shift);
		if (!level && (id >> shift) >= slots)
			return 1;
		if (bpf_probe_read_kernel(&entry, sizeof(entry),
					  (void *)node + bpf_core_field_offset(node->slots) +
						  ((id >> shift) & (slots - 1)) * sizeof(void *)))
			return 0;
	}
	if (!entry || (__u64)entry & 3)
		return 0;
	found = bpf_map_lookup_elem(&nsids, &at);
	if (!found)
		return 1;
	nsids_count = at + 1;
	found->nsid = id;
	found->netns = BPF_CORE_READ((struct net *)entry, ns.inum);
	return 0;
}

SEC("raw_tp")
int tasks_walk(void *context)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct task_struct *first = BPF_CORE_READ(current, group_leader);
	struct net *own = BPF_CORE_READ(current, nsproxy, net_ns);
	struct rt_walk walk = {.first = first, .task = first, .own = own};
	struct rt_ids ids = {.head = BPF_CORE_READ(own, netns_ids.idr_rt.xa_head)};

	own_netns = BPF_CORE_READ(own, ns.inum);
	nsids_count = sockets_count = tasks_count = fds_count = 0;
	tasks_lost = sockets_lost = fds_lost = 0;
	bpf_loop(RT_MAX_NSIDS, rt_visit_nsid, &ids, 0);
	bpf_loop(RT_MAX_TASKS, rt_visit_task, &walk, 0);
	return 0;
}
