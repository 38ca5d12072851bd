/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The flow table of one address family: included once with RT_FAMILY 4 and once with 6.
 *
 * A packet is counted in exactly one of these places, tried in order:
 *   1. its slot of this CPU's direct-mapped cache, if the flow has it or nobody has it yet in this
 *      generation. Plain additions: the cache is per CPU, and a tc program is not interrupted by
 *      another one (bottom halves are off). Kernels with PREEMPT_RT do not promise that: there
 *      cfg_cache is 0 and this step is left out;
 *   2. its row of the HASH of this generation, by atomic additions (several CPUs may share it);
 *   3. a record in the ring; 4. the counter of lost packets.
 * Nothing is ever evicted, so the sum over the four is the sum of all packets, exactly.
 */

#define RT_PASTE_(a, b, c) a##b##c
#define RT_PASTE(a, b, c) RT_PASTE_(a, b, c)
#define RT_KEY RT_PASTE(rt_flow, RT_FAMILY, _key)
#define RT_SLOT RT_PASTE(rt_flow, RT_FAMILY, _slot)
#define RT_CACHE RT_PASTE(flows, RT_FAMILY, _cache)
#define RT_TAGS RT_PASTE(flows, RT_FAMILY, _tags)
#define RT_HASH_EVEN RT_PASTE(flows, RT_FAMILY, _even)
#define RT_HASH_ODD RT_PASTE(flows, RT_FAMILY, _odd)
#define RT_FLAGS_EVEN RT_PASTE(flags, RT_FAMILY, _even)
#define RT_FLAGS_ODD RT_PASTE(flags, RT_FAMILY, _odd)
#define RT_SAME RT_PASTE(rt_same, RT_FAMILY, )
#define RT_SPREAD RT_PASTE(rt_spread, RT_FAMILY, )
#define RT_TO_RING RT_PASTE(rt_to_ring, RT_FAMILY, )
#define RT_COUNT_FLAGS RT_PASTE(rt_count_flags, RT_FAMILY, )
#define RT_COUNT_MISS RT_PASTE(rt_count_miss, RT_FAMILY, )
#define RT_COUNT RT_PASTE(rt_count, RT_FAMILY, )

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* user space sets: 2 generations x CPUs << cfg_slot_bits */
	__type(key, __u32);
	__type(value, struct RT_SLOT);
} RT_CACHE SEC(".maps");

/*
 * For each slot 4 bytes that say in which generation it was taken (16 bits) and by what sort of hash
 * (16 bits). With many flows most have no slot; this tells them without a look at the slot itself,
 * which would be a cache line fetched for nothing. A hint only: the slot has the last word.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2); /* as many as slots */
	__type(key, __u32);
	__type(value, __u32);
} RT_TAGS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct RT_KEY);
	__type(value, struct rt_flow_row);
} RT_HASH_EVEN SEC(".maps"), RT_HASH_ODD SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct RT_KEY);
	__type(value, struct rt_flag_row);
} RT_FLAGS_EVEN SEC(".maps"), RT_FLAGS_ODD SEC(".maps");

/* Puts a packet (0: none of it) and its flags (rare_only: those that a slot has no room for, or all)
 * into the ring. Returns 0 if there is no room. */
static __always_inline int RT_TO_RING(struct RT_KEY *key, struct rt_packet *packet, __u32 generation,
				      __u64 packets, __u64 bytes, int with_flags, __u32 rare_only)
{
	struct rt_flow_record *record = bpf_ringbuf_reserve(&flows_ring, sizeof(*record), 0);

	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->family = RT_FAMILY;
	record->generation = generation;
	__builtin_memcpy(&record->key, key, sizeof(*key));
	record->packets = packets;
	record->bytes = bytes;
	record->last = packet->now;
	if (with_flags) {
		if (!rare_only)
			rt_add_common_flags(record->flags, packet->tcp_flags, RT_PLAIN);
		rt_add_rare_flags(record->flags, packet->tcp_flags);
	}
	/* User space reads at its ticks: a wake-up per packet would cost more than the packet. */
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 1;
}

/* Counts flags in the HASH of flags, else the ring, else as lost. */
static __noinline int RT_COUNT_FLAGS(struct RT_KEY *key, struct rt_packet *packet,
				     __u32 generation, __u32 rare_only)
{
	struct rt_flag_row *row;

	if (!key || !packet)
		return 0;
	row = generation & 1 ? bpf_map_lookup_elem(&RT_FLAGS_ODD, key)
			     : bpf_map_lookup_elem(&RT_FLAGS_EVEN, key);
	if (!row) {
		struct rt_flag_row zero = {};

		if (generation & 1) {
			bpf_map_update_elem(&RT_FLAGS_ODD, key, &zero, BPF_NOEXIST);
			row = bpf_map_lookup_elem(&RT_FLAGS_ODD, key);
		} else {
			bpf_map_update_elem(&RT_FLAGS_EVEN, key, &zero, BPF_NOEXIST);
			row = bpf_map_lookup_elem(&RT_FLAGS_EVEN, key);
		}
	}
	if (row) {
		if (!rare_only)
			rt_add_common_flags(row->flags, packet->tcp_flags, RT_ATOMIC);
		rt_add_rare_flags(row->flags, packet->tcp_flags);
	} else if (!RT_TO_RING(key, packet, generation, 0, 0, 1, rare_only)) {
		__u32 index = bpf_get_smp_processor_id() * 2 + (generation & 1);
		struct rt_flow_stats *stats = bpf_map_lookup_elem(&flows_stats, &index);

		if (stats)
			stats->lost_flags++;
	}
	return 0;
}

/* Counts a packet in the HASH, else the ring, else as lost. Returns 0, always. */
static __noinline int RT_COUNT_MISS(struct RT_KEY *key, struct rt_packet *packet, __u32 generation)
{
	struct rt_flow_stats *stats;
	struct rt_flow_row *row;
	__u32 index;

	if (!key || !packet)
		return 0;
	index = bpf_get_smp_processor_id() * 2 + (generation & 1);
	stats = bpf_map_lookup_elem(&flows_stats, &index);
	if (!stats)
		return 0;

	row = generation & 1 ? bpf_map_lookup_elem(&RT_HASH_ODD, key)
			     : bpf_map_lookup_elem(&RT_HASH_EVEN, key);
	if (!row) {
		/*
		 * A zero row first, then the same addition as everybody: if another CPU inserts the flow
		 * at this moment we get EEXIST and find its row, and nobody's packet is overwritten.
		 */
		struct rt_flow_row zero = {};
		long error;

		zero.first = zero.last = packet->now;
		error = generation & 1
				? bpf_map_update_elem(&RT_HASH_ODD, key, &zero, BPF_NOEXIST)
				: bpf_map_update_elem(&RT_HASH_EVEN, key, &zero, BPF_NOEXIST);
		if (!error || error == -RT_EEXIST) {
			stats->insert_races += error != 0;
			row = generation & 1 ? bpf_map_lookup_elem(&RT_HASH_ODD, key)
					     : bpf_map_lookup_elem(&RT_HASH_EVEN, key);
		} else {
			stats->insert_errors++;
		}
	}
	if (row) {
		__sync_fetch_and_add(&row->packets, packet->segments);
		__sync_fetch_and_add(&row->bytes, packet->wire_bytes);
		row->last = packet->now;
		stats->hash_packets += packet->segments;
		if (rt_has_flags(packet->tcp_flags))
			return RT_COUNT_FLAGS(key, packet, generation, 0);
		return 0;
	}
	if (RT_TO_RING(key, packet, generation, packet->segments, packet->wire_bytes,
		       rt_has_flags(packet->tcp_flags), 0)) {
		stats->ring_packets += packet->segments;
		return 0;
	}
	stats->lost_packets += packet->segments;
	stats->lost_bytes += packet->wire_bytes;
	return 0;
}

static __always_inline int RT_COUNT(struct RT_KEY *key, struct rt_packet *packet, __u32 cpu,
				    __u32 generation)
{
	struct rt_slot_details *details;
	__u32 index, wanted, *tag;
	struct RT_SLOT *slot;
	__u64 spread;

	key->sport = packet->sport;
	key->dport = packet->dport;
	key->meta = packet->meta;
	if (!cfg_cache)
		return RT_COUNT_MISS(key, packet, generation);
	spread = RT_SPREAD(key);
	index = ((cpu * 2 + (generation & 1)) << cfg_slot_bits) |
		(spread >> 40 & ((1u << cfg_slot_bits) - 1));
	wanted = generation << 16 | (spread >> 24 & 0xffff);
	tag = bpf_map_lookup_elem(&RT_TAGS, &index);
	if (!tag || (*tag != wanted && *tag >> 16 == wanted >> 16))
		return RT_COUNT_MISS(key, packet, generation);
	slot = bpf_map_lookup_elem(&RT_CACHE, &index);
	if (!slot)
		return RT_COUNT_MISS(key, packet, generation);
	if (slot->generation == generation && RT_SAME(&slot->key, key)) {
		slot->packets += packet->segments;
		slot->bytes += packet->wire_bytes;
		slot->last = packet->now;
	} else if (slot->generation != generation) {
		details = RT_DETAILS(slot, &index);
		if (!details)
			return RT_COUNT_MISS(key, packet, generation);
		details->first = packet->now;
		__builtin_memset(details->flags, 0, sizeof(details->flags));
		slot->key = *key;
		slot->last = packet->now;
		slot->packets = packet->segments;
		slot->bytes = packet->wire_bytes;
		slot->generation = generation;
		*tag = wanted;
	} else {
		return RT_COUNT_MISS(key, packet, generation);
	}
	if (rt_has_flags(packet->tcp_flags)) {
		details = RT_DETAILS(slot, &index);
		if (details)
			rt_add_common_flags(details->flags, packet->tcp_flags, RT_PLAIN);
		if (rt_has_rare_flags(packet->tcp_flags))
			return RT_COUNT_FLAGS(key, packet, generation, 1);
	}
	return 0;
}

#undef RT_PASTE_
#undef RT_PASTE
#undef RT_KEY
#undef RT_SLOT
#undef RT_CACHE
#undef RT_TAGS
#undef RT_HASH_EVEN
#undef RT_HASH_ODD
#undef RT_FLAGS_EVEN
#undef RT_FLAGS_ODD
#undef RT_SAME
#undef RT_SPREAD
#undef RT_TO_RING
#undef RT_COUNT_FLAGS
#undef RT_COUNT_MISS
#undef RT_COUNT
