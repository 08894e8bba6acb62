/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What every probe object shares: knobs, maps, counting, filtering, emission and
 * the identity of a task. The loader gives all objects the same maps, by name.
 */
#ifndef COMMON_BPF_H
#define COMMON_BPF_H

#include "compat.h"
#include "tracer.h"

#define MAX_CPUS 1024
#define OVERFLOW_BYTES 1048576

KNOBS;

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} lifecycle SEC(".maps"), bulk SEC(".maps");

/* Where records go that have no ring on their CPU, because it came online later, or was away and
 * its ring stopped: a new ring takes privilege, which user space may have given up. BCC's probes
 * go without, and count such records as failed. */
#ifndef TRACER_BCC
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, OVERFLOW_BYTES);
} overflow SEC(".maps");
#define emit_aside(record, size, err)								\
	(bpf_ringbuf_output(MAP(overflow), record, size, BPF_RB_NO_WAKEUP) ? (err) : 0)
#else
#define emit_aside(record, size, err) (err)
#endif

/* Mappable, so that user space can read them for ever without any privilege. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_CPUS * KINDS);	/* the loader sets the real number of CPUs */
	__type(key, u32);
	__type(value, struct tally);
} tallies SEC(".maps");

/* The next number of each level, and who is taking one; and how full the ring is: bytes that were put there, and, which
 * user space writes, those that it has taken out, and how many there is room for (0: no ring). */
struct numbers {
	u64 next[LEVELS];
	u32 busy[LEVELS];
	u64 put;
	u64 taken;
	u64 room;
	u64 nothing[2];		/* what over_budget() begins with: it has no room for that itself */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_CPUS * RINGS);
	__type(key, u32);
	__type(value, struct numbers);
} sequences SEC(".maps");

/* tgid -> start of the processes that are not to be traced: tracer's own. Other tracers
 * find the holder of a map by this name. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u64);
} tracer_excluded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, u8);
} filter_pids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, u8);
} filter_uids SEC(".maps"), filter_netns SEC(".maps"), filter_ports SEC(".maps");

struct cidr_key {
	u32 bits;
	u8 address[16];		/* IPv4 as ::ffff:a.b.c.d */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cidr_key);
	__type(value, u8);
} filter_cidrs SEC(".maps");

#ifdef TRACER_BCC
/* Iterators need BTF. What they answer elsewhere, one record at a time: mapped by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct socket_record);
} answer SEC(".maps");

static __always_inline struct socket_record *the_answer(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(MAP(answer), &zero);
}
#endif

/* The kernel skips a program on a CPU where it runs already (6.2, commit 05b24ff9b2cf). Where
 * tracepoints can be preempted, as from 7.0 on, a task that was preempted in one so keeps it from all
 * others there. So each has a stand-in, a second program that does its work if it was skipped: where
 * it can be at a classic tracepoint, whose programs are guarded apart. The first leaves here what it
 * has seen to, (tid, enum seen_to) -> what tells it from the next, and the other takes it away.
 *
 * Only for what happens in a task's own context, where nothing comes between the two. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, u64);
} seen_to SEC(".maps");

enum seen_to { SEEN_EXEC, SEEN_FORK, SEEN_EXIT, SEEN_EXEC_FAILED, SEEN_CONNECT, SEEN_ACCEPT };

static __always_inline u64 seen_key(enum seen_to what)
{
	return (u64)(u32)bpf_get_current_pid_tgid() << 8 | what;
}

static __always_inline void leave_mark(enum seen_to what, u64 id)
{
	u64 key = seen_key(what);

	if (KNOB(preemptible))
		bpf_map_update_elem(MAP(seen_to), &key, &id, BPF_ANY);
}

static __always_inline bool take_mark(enum seen_to what, u64 id)
{
	u64 key = seen_key(what), *seen;

	if (!KNOB(preemptible))
		return false;
	seen = bpf_map_lookup_elem(MAP(seen_to), &key);
	return seen && *seen == id && !bpf_map_delete_elem(MAP(seen_to), &key);
}

/* Of two programs at one tracepoint either may come first. */
static __always_inline bool is_seen_to(enum seen_to what, u64 id)
{
	if (take_mark(what, id))
		return true;
	leave_mark(what, id);
	return false;
}

static __always_inline struct tally *tally_of(u32 kind)
{
	u32 key = bpf_get_smp_processor_id() * KINDS + kind;

	return bpf_map_lookup_elem(MAP(tallies), &key);
}

static __always_inline bool is_excluded(u32 tgid, u64 start)
{
	u64 *mine = bpf_map_lookup_elem(MAP(tracer_excluded), &tgid);

	return mine && *mine == start;
}

/* What makes no record, such as a thread, is counted where a tracer does it, as filtered: it does so to find
 * out whether this probe still runs. */
static __always_inline void count_own(const struct task_struct *task, u32 kind)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	u64 *start = bpf_map_lookup_elem(MAP(tracer_excluded), &tgid);
	struct tally *t;

	if (!start || *start != boot_start(BPF_CORE_READ(task, group_leader)))
		return;
	t = tally_of(kind);
	if (!t)
		return;
	count(&t->attempts);
	count(&t->filtered);
}

static __always_inline bool pid_wanted(u32 tgid)
{
	if (!(KNOB(filters) & FILTER_PID))
		return true;
	return bpf_map_lookup_elem(MAP(filter_pids), &tgid);
}

/* Fills what is the same in every record; seq is taken last, right before the output. */
static __always_inline void begin_at(struct header *h, u64 now, u32 kind, u32 ring, u32 tgid, u32 tid, u64 start)
{
	h->time = now;
	h->seq = 0;
	h->start = start;
	h->tgid = tgid;
	h->tid = tid;
	h->cpu = bpf_get_smp_processor_id();
	h->kind = kind;
	h->ring = ring;
	h->flags = 0;
}

static __always_inline void begin(struct header *h, u32 kind, u32 ring, u32 tgid, u32 tid, u64 start)
{
	begin_at(h, bpf_ktime_get_boot_ns(), kind, ring, tgid, tid, start);
}

static __always_inline void note_failure(struct tally *t, u64 now)
{
	/* A quarter of a second of quiet ends a burst. */
	if (now - t->failed_last > 250000000ULL)
		t->failed_first = now;
	t->failed_last = now;
	count(&t->failed);
}

/* A softirq may interrupt a probe on its own CPU at any instruction, and kernels that run
 * tracepoints preemptibly let another task do the same. So a number is taken by whoever
 * holds its level, and nobody else touches that level meanwhile. */
static __always_inline bool next_number(struct numbers *numbers, u64 *seq)
{
	for (u32 level = 0; level < LEVELS; level++) {
		if (claim(&numbers->busy[level])) {
			*seq = (u64)level << SEQ_LEVEL_SHIFT | numbers->next[level]++;
			release(&numbers->busy[level]);
			return true;
		}
	}
	return false;
}

/* What a record takes in a perf ring: struct perf_event_header and the size lie in front. */
#define RING_BYTES(size) ((u64)(size) + 12 + 7 & ~7ULL)

#define NO_NUMBER 1	/* no error of the kernel's is positive */

/* `output` is an expression that puts the record out; `aside` what tells of its other way out,
 * given why the first has failed. */
#define emit_by(output, aside, record, bytes, t)							\
({												\
	u32 __key = bpf_get_smp_processor_id() * RINGS + (record)->h.ring;			\
	struct numbers *__numbers = bpf_map_lookup_elem(MAP(sequences), &__key);			\
	long __err = NO_NUMBER;									\
	if (__numbers && next_number(__numbers, &(record)->h.seq))				\
		__err = output;									\
	if (!__err)										\
		__sync_fetch_and_add(&__numbers->put, RING_BYTES(bytes));			\
	if (__err && __err != NO_NUMBER && __err != -ENOSPC) /* ENOENT, EOPNOTSUPP */		\
		__err = aside;									\
	if (!__err) {										\
		count(&(t)->emitted);								\
	} else {										\
		note_failure(t, (record)->h.time);						\
		if (__err == -ENOSPC)								\
			count(&(t)->no_space);							\
		else if (__err == NO_NUMBER)							\
			count(&(t)->no_slot);							\
		else /* ENOENT; EOPNOTSUPP where the CPU was away; and the overflow is full */	\
			count(&(t)->no_ring);							\
	}											\
	__err;											\
})

#define emit(ctx, map, record, size, t)								\
	emit_by(bpf_perf_event_output(ctx, MAP(map), BPF_F_CURRENT_CPU, record, size),		\
		emit_aside(record, size, __err), record, size, t)

/* With the first bytes of the packet behind the record. No other way out: the overflow takes what
 * lies in one piece. */
#define emit_with_packet(skb, map, record, size, bytes, t)						\
	emit_by(bpf_perf_event_output(skb, MAP(map), BPF_F_CURRENT_CPU | (u64)(bytes) << 32, record, size),	\
		__err, record, (size) + (bytes), t)

static __always_inline u32 global_nr(const struct pid *pid)
{
	return BPF_CORE_READ(pid, numbers[0].nr);
}

/* A process's number in its own pid namespace. */
static __always_inline const struct upid *inner_pid(const struct task_struct *leader)
{
	const struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);

	/* 32 is the kernel's MAX_PID_NS_LEVEL. */
	if (level > 32)
		level = 32;
	return (const void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
}

static __always_inline void identify(struct identity *id, const struct task_struct *task)
{
	const struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	const struct task_struct *parent = BPF_CORE_READ(leader, real_parent, group_leader);
	const struct cred *cred = BPF_CORE_READ(task, cred);
	const struct signal_struct *signal = BPF_CORE_READ(task, signal);
	const struct upid *upid = inner_pid(leader);

	id->parent_tgid = BPF_CORE_READ(parent, tgid);
	id->parent_start = boot_start(parent);
	id->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	id->uid = BPF_CORE_READ(cred, uid.val);
	id->gid = BPF_CORE_READ(cred, gid.val);
	id->euid = BPF_CORE_READ(cred, euid.val);
	id->egid = BPF_CORE_READ(cred, egid.val);
	id->loginuid = ~0U;
	id->audit_session = ~0U;
	read_audit(task, &id->loginuid, &id->audit_session);
	id->session = global_nr(BPF_CORE_READ(signal, pids[PIDTYPE_SID]));
	id->group = global_nr(BPF_CORE_READ(signal, pids[PIDTYPE_PGID]));
	id->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	id->vpid = BPF_CORE_READ(upid, nr);
	id->pidns = BPF_CORE_READ(upid, ns, ns.inum);
	bpf_core_read(&id->comm, sizeof(id->comm), &leader->comm);
}

#endif
