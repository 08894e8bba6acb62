/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where an exec record is built, and the record of one that failed: for the probes of
 * process.bpf.c and of returns.bpf.c alike.
 */
#ifndef EXEC_BPF_H
#define EXEC_BPF_H

#include "flood.bpf.h"

/* An exec record is too large for the stack. A slot is claimed, so that whatever
 * interrupts the owner on this CPU takes another one; no free slot is counted loss. */
#define SLOTS 3

struct slot {
	u32 busy;
	u16 zero;		/* always 0, but the verifier does not know it */
	u16 number;		/* of the slot; read again, so that the verifier does not tell one slot from another */
	char bytes[sizeof(struct exec_record) + EXEC_DATA] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

static __always_inline struct slot *take_slot(void)
{
	struct slot *slot;

	for (u32 i = 0; i < SLOTS; i++) {
		u32 key = i;

		slot = bpf_map_lookup_elem(MAP(slots), &key);
		if (slot && claim(&slot->busy)) {
			slot->number = i;
			return slot;
		}
	}
	return NULL;
}

/* Keeps an offset in one range by a mask that the compiler can't see through: else every mix of
 * lengths is a state of its own for the verifier. It also forgets what it knew of a number once that
 * is stored in a map's memory, so all ways there go on as one from where it is read again. */
#define ONE_RANGE(x, mask) asm volatile("%0 &= " #mask : "+r"(x))
#define AS_STORED(field) (*(const volatile typeof(field) *)&(field))

/* Bytes of data so far. */
static __always_inline u64 failed_data(const struct exec_failed_record *r)
{
	u64 off = AS_STORED(r->file_len) + AS_STORED(r->args_len);

	ONE_RANGE(off, 16383);
	return off;
}

/* A failed exec never reaches sched_process_exec. Its arguments are still in the
 * caller's registers and memory; they are what was asked for, not evidence of more.
 * In a `compat` call argv holds pointers of 32 bits. */
static __always_inline int exec_failed(void *ctx, long ret, const char *file, const void *argv, bool compat)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 ids = bpf_get_current_pid_tgid();
	u32 tgid = ids >> 32;
	struct exec_failed_record *r;
	struct tally *t;
	struct slot *slot;
	u64 start, off, now;
	char *data;
	long n;

	t = tally_of(KIND_EXEC_FAILED);
	if (!t)
		return 0;
	count(&t->attempts);
	start = boot_start(BPF_CORE_READ(task, group_leader));
	if (is_excluded(tgid, start) || !pid_wanted(tgid)) {
		count(&t->filtered);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (current_over_budget(now, RING_BYTES(sizeof(*r)))) {
		collapse_process(t, task, KIND_EXEC_FAILED, now, program_of(task));
		return 0;
	}
	slot = take_slot();
	if (!slot) {
		note_failure(t, now);
		count(&t->no_slot);
		return 0;
	}
	r = (void *)slot->bytes;
	data = r->data;
	begin_at(&r->h, now, KIND_EXEC_FAILED, RING_LIFECYCLE, tgid, (u32)ids, start);
	identify(&r->id, task);
	r->file_len = 0;
	r->args_len = 0;
	if (ret > 0) {
		r->error = 0;
		r->h.flags |= FLAG_SECCOMP_KILLED;
	} else {
		r->error = -ret;
	}
	n = bpf_probe_read_user_str(data, FILE_BYTES, file);
	if (n > 0 && n <= FILE_BYTES) {
		r->file_len = n;
		if (n == FILE_BYTES)
			r->h.flags |= FLAG_TRUNCATED_FILE;
	} else {
		r->h.flags |= FLAG_FAULT_ARGS;
	}
	off = failed_data(r);
	for (int i = 0; i < FAILED_ARGS; i++) {
		u64 arg = 0;

		if (bpf_probe_read_user(&arg, compat ? 4 : 8, argv + i * (compat ? 4 : 8)) || !arg)
			break;
		if (off > ARGS_BYTES || i == FAILED_ARGS - 1) {
			r->h.flags |= FLAG_TRUNCATED_ARGS;
			break;
		}
		n = bpf_probe_read_user_str(data + off, FILE_BYTES, (const void *)arg);
		if (n <= 0 || n > FILE_BYTES) {
			r->h.flags |= FLAG_FAULT_ARGS;
			break;
		}
		if (n == FILE_BYTES)
			r->h.flags |= FLAG_TRUNCATED_ARGS;
		r->args_len += n;
		off = failed_data(r);
	}
	if (r->h.flags & (FLAG_TRUNCATED_ARGS | FLAG_TRUNCATED_FILE | FLAG_FAULT_ARGS))
		count(&t->truncated);
	if (off <= EXEC_DATA && !emit(ctx, lifecycle, r, sizeof(*r) + off, t))
		used_more(RING_LIFECYCLE, off);
	release(&slot->busy);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
#define COMPAT_ARG(regs, native, compat) ((u32)BPF_CORE_READ(regs, compat))
#elif defined(__TARGET_ARCH_arm64)
#define COMPAT_ARG(regs, native, compat) ((u32)native(regs))
#endif
#define COMPAT_ARG1(regs) COMPAT_ARG(regs, REGS_ARG1, bx)
#define COMPAT_ARG2(regs) COMPAT_ARG(regs, REGS_ARG2, cx)
#define COMPAT_ARG3(regs) COMPAT_ARG(regs, REGS_ARG3, dx)

/* An exec that failed returns, of the form execve(file, argv, …) or execveat(fd, file, argv, …): for
 * the `first` program that sees it, or for one that looks after those the first was skipped for. */
static __always_inline int exec_returned(void *ctx, long ret, bool at, bool compat, bool first)
{
	const struct pt_regs *regs = user_regs((void *)bpf_get_current_task());
	u64 file, argv;

	if (compat) {
		file = at ? COMPAT_ARG2(regs) : COMPAT_ARG1(regs);
		argv = at ? COMPAT_ARG3(regs) : COMPAT_ARG2(regs);
	} else {
		file = at ? REGS_ARG2(regs) : REGS_ARG1(regs);
		argv = at ? REGS_ARG3(regs) : REGS_ARG2(regs);
	}
	if (first)
		leave_mark(SEEN_EXEC_FAILED, file);
	else if (take_mark(SEEN_EXEC_FAILED, file))
		return 0;
	return exec_failed(ctx, ret, (const char *)file, (const void *)argv, compat);
}

#endif
