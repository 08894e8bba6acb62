// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * One program for each way to hook the kernel, that does nothing: `tracer doctor` loads
 * and attaches them one by one, for an instant, to find out what this kernel allows.
 * They sit where little happens.
 */
#include "kernel.h"
#include "compat.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("raw_tp/sched_process_exit")
int try_raw_tp(const void *ctx __attribute__((unused)))
{
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(try_tp_btf, const struct task_struct *task)
{
	(void)ctx;
	/* A typed read is what makes this one worth having. */
	return task->pid < 0;
}

SEC("tp/syscalls/sys_exit_execve")
int try_tp(const void *ctx __attribute__((unused)))
{
	return 0;
}

SEC("fentry/inet_csk_accept")
int try_fentry(const void *ctx __attribute__((unused)))
{
	return 0;
}

SEC("fexit/inet_listen")
int try_fexit(const void *ctx __attribute__((unused)))
{
	SAFE_TO_DETACH;
	return 0;
}

SEC("kprobe/inet_csk_accept")
int try_kprobe(const void *ctx __attribute__((unused)))
{
	return 0;
}

SEC("lsm/bprm_committed_creds")
int try_lsm(const void *ctx __attribute__((unused)))
{
	return 0;
}

/* The iterators write one byte for what they see first. */
#define SAW_ONE(ctx, object)						\
({									\
	if ((object) && (ctx)->meta->seq_num == 0)			\
		bpf_seq_write((ctx)->meta->seq, "", 1);			\
	0;								\
})

SEC("iter/task")
int try_iter_task(struct bpf_iter__task *ctx)
{
	return SAW_ONE(ctx, ctx->task);
}

/* What a sleepable one is wanted for: to read another process's memory (5.18, commits
 * b77fb25dcb34, 376040e47334), into a per-CPU map (5.12, commit 638e4b825d52). 5.10 loads
 * one that has neither, though there it may not sleep. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} scratch SEC(".maps");

SEC("iter.s/task")
int try_iter_task_sleepable(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;	/* checked once: loaded again, it may be NULL again (6.12) */
	u32 zero = 0;
	u64 *word = bpf_map_lookup_elem(&scratch, &zero);

	if (word && task && ctx->meta->seq_num == 0)
		bpf_copy_from_user_task(word, sizeof(*word), NULL, task, 0);
	return SAW_ONE(ctx, task);
}

SEC("iter/task_file")
int try_iter_task_file(struct bpf_iter__task_file *ctx)
{
	return SAW_ONE(ctx, ctx->file);
}
