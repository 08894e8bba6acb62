/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Emits ready-made records of the reference mix into the rings of a running tracer, with its own counters and sequence
 * numbers, so that its live path can be measured at a rate that no workload would reach. Run by BPF_PROG_TEST_RUN with
 * two arguments: the number of the first process, and how many.
 */
#include "common.bpf.h"

#define GROUPS 256		/* different processes before they come again, under other pids */
#define STEPS 4			/* exec, connect, close, exit */
#define MOST 64			/* processes in one run */
#define FIRST_PID 5000000	/* above the largest pid there can be: nobody real is taken for one of these */
#define BYTES 1020

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct record {
	struct header h;
	u8 rest[BYTES - sizeof(struct header)];
};

struct template {
	u32 size;
	u8 bytes[BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GROUPS * STEPS);
	__type(key, u32);
	__type(value, struct template);
} templates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct record);
} scratch SEC(".maps");

static __always_inline void emit_step(void *ctx, struct record *record, u64 number, u32 step)
{
	u32 key = (u32)(number % GROUPS) * STEPS + step;
	struct template *from = bpf_map_lookup_elem(&templates, &key);
	struct tally *t;
	u32 size;

	if (!from)
		return;
	size = from->size;
	if (size < sizeof(struct header) || size > BYTES)
		return;
	if (bpf_probe_read_kernel(record, size, from->bytes))
		return;
	record->h.time = bpf_ktime_get_boot_ns();
	record->h.tgid = record->h.tid = FIRST_PID + (u32)number;
	record->h.start = number * 1000;
	record->h.cpu = bpf_get_smp_processor_id();
	if (record->h.ring == RING_BULK) {
		struct socket_record *socket = (void *)record;

		socket->flow = ~number;
		socket->opened = socket->established = record->h.time - 90000;
	}
	t = tally_of(record->h.kind);
	if (!t)
		return;
	count(&t->attempts);
	if (record->h.ring == RING_BULK)
		emit(ctx, bulk, record, size, t);
	else
		emit(ctx, lifecycle, record, size, t);
}

SEC("raw_tp/sched_process_exit")
int feed(u64 *ctx)
{
	u64 first = ctx[0], many = ctx[1];
	u32 zero = 0;
	struct record *record = bpf_map_lookup_elem(&scratch, &zero);

	if (!record)
		return 1;
	for (u32 done = 0; done < MOST && done < many; done++) {
		for (u32 step = 0; step < STEPS; step++)
			emit_step(ctx, record, first + done, step);
	}
	return 0;
}
