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

SEC("iter.s/task")
int try_iter_task_sleepable(struct bpf_iter__task *ctx)
{
	return SAW_ONE(ctx, ctx->task);
}

SEC("iter/task_file")
int try_iter_task_file(struct bpf_iter__task_file *ctx)
{
	return SAW_ONE(ctx, ctx->file);
}
