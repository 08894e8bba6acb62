/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Nobody's storm hides what others do: what a user in a control group may put into a ring is bounded,
 * and what is beyond that is counted by executable and kind instead.
 *
 * Each CPU has rings of its own, so each has budgets of its own: nothing here is shared between CPUs but the
 * counts, which user space reads from its mapping, without any privilege.
 */
#ifndef FLOOD_BPF_H
#define FLOOD_BPF_H

#include "common.bpf.h"

/* Functions of their own, which the verifier looks at once, in objects that have programs which use them: what nothing
 * calls would be loaded as a program itself. Under BCC every function has to be a part of the program that calls it. */
#if defined(HAS_BUDGETS) && !defined(TRACER_BCC)
#define SHARED __noinline
#else
#define SHARED static __always_inline
#endif

#define BUDGET_NS 1000000000ULL	/* what was not used for so long is not kept */
#define IDLE_NS 60000000000ULL	/* by then user space has read a count, and its place may be another's */
#define FLOOD_TRIES 4

struct budget_key {
	u64 cgroup;
	u32 uid;
	u32 place;		/* cpu * RINGS + ring */
};

struct budget_left {
	u64 next;		/* boottime ns at which the next record would be within the rate */
	u32 window;		/* the last bits of how much was put into the ring when `used` began */
	u32 used;		/* bytes since then, as the ring has them */
};

/* Who has been quiet for longest makes room for others: with a whole budget when it comes again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct budget_key);
	__type(value, struct budget_left);
} budgets_left SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FLOODS + KINDS + 1);	/* then what finds no place, by kind, and all together */
	__type(key, u32);
	__type(value, struct flood);
} floods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * UNSEEN);
	__type(key, u32);
	__type(value, struct unseen);
} unseen SEC(".maps");

/* Whether a record of `size` bytes of this user, in this control group, is more than it may put into the ring: by the
 * rate, or because the ring is three quarters full and an eighth of it is this user's. Two that interleave on one CPU
 * may both be let through.
 *
 * A rate as when the next record is due (the generic cell rate algorithm, ITU-T I.371): one number, no refilling. */
SHARED u32 over_budget(u64 cgroup, u32 uid, u32 ring, u64 now, u32 size)
{
	struct budget_key key = { .cgroup = cgroup, .uid = uid };
	struct budget_left *left;
	struct numbers *numbers;
	u64 next, filled;

	if (!KNOB(flood_ns))
		return false;
	key.place = bpf_get_smp_processor_id() * RINGS + ring;
	numbers = bpf_map_lookup_elem(MAP(sequences), &key.place);
	if (!numbers)
		return false;
	left = bpf_map_lookup_elem(MAP(budgets_left), &key);
	if (!left) {
		bpf_map_update_elem(MAP(budgets_left), &key, numbers->nothing, BPF_ANY);
		return false;
	}
	next = left->next;
	if (next + BUDGET_NS < now)
		next = now - BUDGET_NS;
	if (next > now)
		return true;
	if (numbers->room) {
		filled = numbers->put - *(volatile u64 *)&numbers->taken;
		if ((s32)((u32)numbers->taken - left->window) >= 0) {
			left->window = numbers->put;
			left->used = 0;
		}
		if ((s64)filled > (s64)(numbers->room / 4 * 3) && left->used > numbers->room / 8)
			return true;
		left->used += size;
	}
	left->next = next + KNOB(flood_ns);
	return false;
}

/* A record has become longer than over_budget() was told. */
static __always_inline void used_more(u32 ring, u64 bytes)
{
	struct budget_key key = { .cgroup = bpf_get_current_cgroup_id(), .uid = bpf_get_current_uid_gid() };
	struct budget_left *left;

	if (!KNOB(flood_ns))
		return;
	key.place = bpf_get_smp_processor_id() * RINGS + ring;
	left = bpf_map_lookup_elem(MAP(budgets_left), &key);
	if (left)
		left->used += bytes;
}

static __always_inline bool is_free(const struct flood *f, u64 now)
{
	return !f->began || now - f->last > IDLE_NS;
}

/* In one condition: each is another way through for the verifier. */
static __always_inline bool is_same(const struct flood *f, u64 hash, u64 uid_kind)
{
	return !((f->hash ^ hash) | (((u64)f->kind << 32 | f->uid) ^ uid_kind) | !f->began);
}

/* Count what is told by no record of its own; the number of its place, + 1, where that is new and its caller is to say
 * the rest. What is of one user and kind is told apart by the hash alone, for want of room on the stack. */
SHARED u32 count_flood(u64 hash, u64 uid_kind, u64 now)
{
	u32 at = FLOODS + KINDS, place = 0;
	struct flood *f;

	f = bpf_map_lookup_elem(MAP(floods), &at);
	if (!f)
		return 0;
	count(&f->count);
	for (u32 i = 0; i < FLOOD_TRIES; i++) {
		at = (hash + i) & (FLOODS - 1);
		f = bpf_map_lookup_elem(MAP(floods), &at);
		if (!f)
			return 0;
		if (is_same(f, hash, uid_kind)) {
			place = 0;
			goto found;
		}
		if (is_free(f, now))
			place = at + 1;
	}
	at = place - 1;
	f = bpf_map_lookup_elem(MAP(floods), &at);
	if (place && f) {
		place = 0;
		if (claim(&f->busy)) {
			if (is_free(f, now)) {
				f->ready = 0;
				*(volatile u64 *)&f->began = 0;
				f->hash = hash;
				f->uid = uid_kind;
				f->kind = uid_kind >> 32;
				*(volatile u64 *)&f->count = 0;
				f->last = now;
				*(volatile u64 *)&f->began = now;
				place = at + 1;
			}
			release(&f->busy);
		}
		if (is_same(f, hash, uid_kind))
			goto found;
	}
	place = 0;
	at = FLOODS + (uid_kind >> 32);
	f = bpf_map_lookup_elem(MAP(floods), &at);
	if (!f)
		return 0;
	if (!f->began) {
		f->kind = uid_kind >> 32;
		f->began = now;
		f->ready = 1;
	}
found:
	f->last = now;
	count(&f->count);
	return place;
}

/* What a process has done unseen, of which user space must know lest it goes on with what it knew: it runs something
 * else now, or has ended. One place for each number of a pid's last bits, and a number that is odd while it is written. */
static __always_inline void note_unseen(u32 tgid, u64 start, u64 now, const bool ended)
{
	u32 at = (tgid & (UNSEEN - 1)) + ended * UNSEEN;
	struct unseen *u = bpf_map_lookup_elem(MAP(unseen), &at);

	if (!u)
		return;
	__sync_fetch_and_add(&u->changes, 1);
	u->start = start;
	u->time = now;
	u->tgid = tgid;
	__sync_fetch_and_add(&u->changes, 1);
}

/* What is told of a row beside how many there were: of the first process. */
struct first {
	u64 cgroup;
	u64 inode;
	u64 start;
	u32 dev;
	u32 tgid;
	const char *comm;
};

static __always_inline u64 name_hash(const char *comm)
{
	return ((const u64 *)comm)[0] * 0x9e3779b97f4a7c15ULL ^ ((const u64 *)comm)[1];
}

/* `what` tells programs apart. */
static __always_inline void collapse(struct tally *t, u32 uid, u32 kind, u64 now, u64 what, const struct first *first)
{
	u64 hash = (first->cgroup * 31 + what) * 0x9e3779b97f4a7c15ULL;
	struct flood *f;
	u32 at;

	hash ^= hash >> 29;
	at = count_flood(hash + uid + kind, (u64)kind << 32 | uid, now);
	if (at) {
		at--;
		f = bpf_map_lookup_elem(MAP(floods), &at);
		if (f) {
			f->cgroup = first->cgroup;
			f->inode = first->inode;
			f->dev = first->dev;
			f->start = first->start;
			f->tgid = first->tgid;
			__builtin_memcpy(f->comm, first->comm, COMM_LEN);
			*(volatile u32 *)&f->ready = 1;
		}
	}
	count(&t->collapsed);
}

/* Of the process of a task, by its executable, or where there is none by its name. */
static __always_inline void collapse_process(struct tally *t, const struct task_struct *task, u32 kind, u64 now,
					     const struct file *file)
{
	const struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	char comm[COMM_LEN] __attribute__((aligned(8))) = {};
	struct first first = { .comm = comm };
	const struct inode *inode;
	u64 what;

	bpf_core_read(comm, sizeof(comm), &leader->comm);
	first.cgroup = bpf_get_current_cgroup_id();
	first.start = boot_start(leader);
	first.tgid = BPF_CORE_READ(leader, tgid);
	if (file) {
		inode = BPF_CORE_READ(file, f_inode);
		first.inode = BPF_CORE_READ(inode, i_ino);
		first.dev = BPF_CORE_READ(inode, i_sb, s_dev);
		what = first.inode * 31 + first.dev;
	} else {
		what = name_hash(comm);
	}
	collapse(t, bpf_get_current_uid_gid(), kind, now, what, &first);
}

/* What a process runs, NULL where there is no such thing (any more). */
static __always_inline const struct file *program_of(const struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);

	return mm ? BPF_CORE_READ(mm, exe_file) : NULL;
}

static __always_inline bool current_over_budget(u64 now, u32 size)
{
	return over_budget(bpf_get_current_cgroup_id(), bpf_get_current_uid_gid(), RING_LIFECYCLE, now, size);
}

#endif
