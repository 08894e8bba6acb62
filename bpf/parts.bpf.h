/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who has moved how many bytes through which socket, to whom: the parts, their counters,
 * and how a new one gets its place.
 *
 * User space reads the counters for ever from its mapping, without any privilege. It marks
 * the parts that have been idle for long as retired; their places are taken again then.
 */
#ifndef PARTS_BPF_H
#define PARTS_BPF_H

#include "flood.bpf.h"

#ifndef TRACER_BCC

/* `peer` and `port` are 0 for a connection, and where the peer is not known. */
struct part_key {
	u64 sk;
	u32 tgid;
	u16 port;
	u16 reserved;
	u8 peer[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PARTS);
	__type(key, u32);
	__type(value, struct part);
} parts SEC(".maps");

/* Written by user space: a byte for each part that it has done with. */
#define RETIRED_BLOCK 64
struct retired_block {
	u8 part[RETIRED_BLOCK];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PARTS / RETIRED_BLOCK);
	__type(key, u32);
	__type(value, struct retired_block);
} retired SEC(".maps");

/* What user space has no need of. `keyed`: part_of leads here. */
struct place {
	struct part_key key;
	u32 busy;
	u32 keyed;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PARTS);
	__type(key, u32);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PARTS);
	__type(key, struct part_key);
	__type(value, u32);
} part_of SEC(".maps");

/* All parts are below this number: a power of two, which grows as they get many. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} parts_limit SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_CPUS);	/* the loader sets the real number of CPUs */
	__type(key, u32);
	__type(value, struct moved);
} moved SEC(".maps");

#define PARTS_FIRST 256
#define TRIES 40		/* with 40,009 of 65,536 taken, one search in 4e8 finds nothing */

static __always_inline bool is_retired(u32 slot)
{
	u32 block = slot / RETIRED_BLOCK;
	struct retired_block *marks = bpf_map_lookup_elem(MAP(retired), &block);

	return marks && marks->part[slot % RETIRED_BLOCK];
}

static __always_inline struct part *part_at(u32 slot)
{
	return bpf_map_lookup_elem(MAP(parts), &slot);
}

#ifdef MAKES_PARTS	/* an object that has nothing but functions would have them loaded as programs */

/* This place, + 1, with `busy` held, if its part has ended or is retired; else 0. This and the next are
 * functions of their own, with nothing but a number to take: the verifier looks at each of them once. */
__noinline u32 try_place(u32 slot)
{
	struct place *place;
	struct part *part;

	slot &= PARTS - 1;
	part = part_at(slot);
	place = bpf_map_lookup_elem(MAP(places), &slot);
	if (!part || !place || (part->flow && !is_retired(slot)) || !claim(&place->busy))
		return 0;
	if (!part->flow || is_retired(slot))
		return slot + 1;
	release(&place->busy);
	return 0;
}

/* A place, + 1, emptied and with `busy` held; 0: none was found. Places are tried at random, so that nothing has to be
 * locked, and low ones first, so that user space has little to look through. */
__noinline u32 free_place(void)
{
	u32 zero = 0, slot, block, found = 0, *known;
	u64 *limit = bpf_map_lookup_elem(MAP(parts_limit), &zero), most;
	struct retired_block *marks;
	struct place *place;
	struct part *part;

	if (!limit)
		return 0;
	most = *limit < PARTS_FIRST ? PARTS_FIRST : *limit;
	for (u32 i = 0; i < TRIES; i++) {
		/* After every fourth twice as many. */
		found = try_place(bpf_get_prandom_u32() & ((most << i / 4) - 1));
		if (found) {
			most <<= i / 4;
			break;
		}
	}
	if (!found)
		return 0;
	if (most > PARTS)
		most = PARTS;
	if (most > *limit)
		*limit = most;
	slot = (found - 1) & (PARTS - 1);
	block = slot / RETIRED_BLOCK;
	part = part_at(slot);
	place = bpf_map_lookup_elem(MAP(places), &slot);
	marks = bpf_map_lookup_elem(MAP(retired), &block);
	if (!part || !place || !marks)
		return 0;
	if (place->keyed) {
		known = bpf_map_lookup_elem(MAP(part_of), &place->key);
		if (known && *known == slot)
			bpf_map_delete_elem(MAP(part_of), &place->key);
	}
	*(volatile u64 *)&part->flow = 0;
	marks->part[slot % RETIRED_BLOCK] = 0;
	part->moved_out = part->moved_in = part->calls_out = part->calls_in = 0;
	part->via = 0;
	return slot + 1;
}

/* A part that is new; the number of its place, + 1; 0: there was none. `keyed`: it is found by its key. */
static __noinline u32 new_part(const struct part_key *key, u64 flow, u64 socket, u64 start, u32 keyed)
{
	u32 slot = free_place();
	struct place *place;
	struct part *part;

	if (!slot)
		return 0;
	slot--;
	part = part_at(slot);
	place = bpf_map_lookup_elem(MAP(places), &slot);
	if (!part || !place)
		return 0;
	part->start = start;
	part->tgid = key->tgid;
	part->socket = socket;
	place->key = *key;
	place->keyed = keyed;
	if (!keyed || !bpf_map_update_elem(MAP(part_of), key, &slot, BPF_ANY)) {
		/* The last: now it is seen. */
		*(volatile u64 *)&part->flow = flow;
	}
	release(&place->busy);
	return part->flow ? slot + 1 : 0;
}

/* The part with this key of a socket, or of a connection, that it has already: the number of its place, + 1. */
static __noinline u32 known_part(const struct part_key *key, u64 socket)
{
	u32 *known = bpf_map_lookup_elem(MAP(part_of), key), slot;
	struct part *part;

	if (!known)
		return 0;
	slot = *known;
	part = part_at(slot);
	if (!part || !part->flow || part->socket != socket || part->tgid != key->tgid || is_retired(slot))
		return 0;
	return slot + 1;
}

static __always_inline u64 current_start(void)
{
	return boot_start(BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader));
}

static __always_inline u32 task_flags(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___helpers, BPF_FUNC_get_current_task_btf___helpers))
		return bpf_get_current_task_btf()->flags;
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), flags);
}

/* How the call that runs now moves bytes. The numbers of 64-bit and 32-bit calls that can't send
 * are no matter; those of sendfile(2) and splice(2) are none of the other kind that could. */
__noinline u32 via_now(void)
{
	u64 call;
	u32 flags;

	if (bpf_core_enum_value_exists(enum bpf_func_id___helpers, BPF_FUNC_task_pt_regs___helpers)) {
		struct task_struct *task = bpf_get_current_task_btf();
		const struct pt_regs *regs = (const void *)bpf_task_pt_regs(task);

		flags = task->flags;
		call = SYSCALL_OF(regs);
	} else {
		const struct task_struct *task = (const void *)bpf_get_current_task();

		flags = BPF_CORE_READ(task, flags);
		call = READ_SYSCALL_OF(user_regs(task));
	}
	if (flags & PF_IO_WORKER || call == NR_IO_URING_ENTER)
		return VIA_IO_URING;
	if (call == NR_SENDFILE || call == NR_COMPAT_SENDFILE || call == NR_COMPAT_SENDFILE64)
		return VIA_SENDFILE;
	if (call == NR_SPLICE || call == NR_COMPAT_SPLICE)
		return VIA_SPLICE;
	return VIA_SYSCALL;
}

static __always_inline void add(u64 *counter, u64 amount)
{
	__sync_fetch_and_add(counter, amount);
}

/* How account() is told the way that bytes went, beside enum via: look it up; and whether they went out. */
#define VIA_NOW (1 << 16)
#define WENT_OUT (1 << 17)

/* `slot` is the place of the part, + 1; 0: there is none to add them to. */
__noinline int account(u32 slot, u64 bytes, u32 how)
{
	u32 cpu = bpf_get_smp_processor_id(), via = (u16)how;
	struct moved *all = bpf_map_lookup_elem(MAP(moved), &cpu);
	struct part *part;

	if (all) {
		add(&all->bytes, bytes);
		if (!slot)
			add(&all->unplaced, bytes);
	}
	if (!slot)
		return 0;
	part = part_at(slot - 1);
	if (!part)
		return 0;
	if (how & VIA_NOW)
		via = via_now();
	if (how & WENT_OUT) {
		add(&part->moved_out, bytes);
		add(&part->calls_out, 1);
	} else {
		add(&part->moved_in, bytes);
		add(&part->calls_in, 1);
	}
	if ((part->via | via) != part->via)
		part->via |= via;
	return 0;
}

#endif /* MAKES_PARTS */

#endif /* not TRACER_BCC */

#endif
