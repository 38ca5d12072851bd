/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Records of the tasks and sockets objects, shared with user space, which reads their layout from
 * the objects' BTF. Ports are in host order, addresses in network order.
 */
#ifndef RT_TASKS_H
#define RT_TASKS_H

/*
 * Names of a cgroup and those above it. A container's own init system adds two levels or three
 * below the container's, which stands below its pod's. The longest name that tells something is
 * "cri-containerd-", 64 digits and ".scope".
 */
#define RT_CGROUP_LEVELS 6
#define RT_CGROUP_NAME 96

/* Processes in the same cgroups, of all hierarchies, and in one network namespace. */
struct rt_task_key {
	__u64 cgroups; /* tells apart within one walk, means nothing afterwards */
	__u32 netns;   /* inode */
	__u32 reserved;
};

struct rt_cgroup_path {
	char names[RT_CGROUP_LEVELS][RT_CGROUP_NAME]; /* from the cgroup upwards, without the root */
};

struct rt_cgroup_paths {
	struct rt_cgroup_path unified; /* version 2 */
	struct rt_cgroup_path legacy;  /* the deepest of version 1 */
};

struct rt_task_row {
	__u32 pid; /* of one of them, in the first pid namespace */
	__u32 reserved;
	struct rt_cgroup_paths paths;
};

/* A network namespace as ours numbers it. */
struct rt_nsid {
	__u32 nsid;
	__u32 netns; /* inode */
};

/* The local end of a socket. */
struct rt_end {
	__u8 address[16]; /* IPv4 mapped into IPv6; all zeros: any, :: */
	__u16 port;
	__u16 protocol;
	__u8 only_ipv6;
	__u8 reserved[3];
};

/* A socket that a process of our network namespace holds. */
struct rt_socket {
	__u64 cgroups; /* as in rt_task_key */
	struct rt_end end;
};

/* Cgroups by numbers that are never given to others; 0: the root's. */
struct rt_owner {
	__u64 unified;
	__u64 legacy;
	__u32 hierarchy; /* of the legacy one */
	__u32 reserved;
};

struct rt_owner_row {
	struct rt_cgroup_paths paths;
	__u32 complete; /* 0 while it is being written */
	__u32 reserved;
};

/* A socket that was closed. */
struct rt_released {
	struct rt_owner owner;
	struct rt_end end;
};

#endif
