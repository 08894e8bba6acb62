// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Stand-ins for the programs of returns.bpf.c, where a task can be preempted in those and the
 * kernel skips them for others meanwhile (see `seen_to`). A program at the return of a function
 * through fprobe (kprobe_multi, 5.18) runs with preemption switched off, so nobody finds it busy.
 *
 * Tracepoints at the return of system calls would not do: since 7.0 the kernel runs their programs
 * preemptibly too, each guarded by itself.
 */
#define HAS_BUDGETS
#include "calls.bpf.h"
#include "exec.bpf.h"

LICENSE("Dual BSD/GPL");

/* Attached to inet_csk_accept(): the kernel's own accepts (NFS, SMC) are those of its threads. */
SEC("kretprobe.multi")
int accept_again(struct pt_regs *ctx)
{
	const struct task_struct *task = (void *)bpf_get_current_task();
	const struct sock *sk = (void *)REGS_RESULT(ctx);

	if (sk && is_tcp(sk, false) && !(BPF_CORE_READ(task, flags) & PF_KTHREAD) && !take_mark(SEEN_ACCEPT, (u64)sk))
		accepted(ctx, sk, false);
	else if (!sk)
		count_own(task, KIND_ACCEPT);
	return 0;
}

SEC("kretprobe.multi")
int connect_again(struct pt_regs *ctx)
{
	return connect_call_returned(ctx, (int)REGS_RESULT(ctx));
}

SEC("kretprobe.multi")
int listen_again(struct pt_regs *ctx)
{
	return listen_call_returned(ctx, (int)REGS_RESULT(ctx));
}

SEC("kretprobe.multi")
int execve_again(struct pt_regs *ctx)
{
	long ret = REGS_RESULT(ctx);

	return ret < 0 ? exec_returned(ctx, ret, false, false, false) : 0;
}

SEC("kretprobe.multi")
int execveat_again(struct pt_regs *ctx)
{
	long ret = REGS_RESULT(ctx);

	return ret < 0 ? exec_returned(ctx, ret, true, false, false) : 0;
}
