// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Where the kernel lets a program run at the return of one of its functions (fexit), these
 * take the place of the tracepoints at the return of system calls: nothing but the calls in
 * question takes longer, and calls that are no 64-bit system calls are seen as well.
 *
 * Each function is called through a pointer or from another file than its own, so that no
 * compiler can have inlined it.
 */
#define HAS_BUDGETS
#include "exec.bpf.h"
#include "socket.bpf.h"

LICENSE("Dual BSD/GPL");

/* A word of the context: the function's arguments, then its result. Loaded by hand, lest the
 * compiler computes the address, which the verifier refuses. */
#define CONTEXT(ctx, at)								\
({											\
	u64 __word;									\
	asm volatile("%0 = *(u64 *)(%1 + " #at ")" : "=r"(__word) : "r"(ctx));		\
	__word;										\
})

/* The socket that leaves the listener's queue: no file leads to it yet, and the call can
 * still fail (EFAULT for the peer's address); then its close follows at once. EMFILE comes
 * before, with nothing accepted. The kernel's own accepts (NFS, SMC) have no process. */
SEC("fexit/inet_csk_accept")
int accept_returns(const u64 *ctx)
{
	const struct proto_accept_arg *arg;
	const struct sock *sk;
	bool kern;

	SAFE_TO_DETACH;
	/* Since 6.10 two arguments (commit 92ef0fd55ac8), before it four. */
	if (bpf_core_type_exists(struct proto_accept_arg)) {
		arg = (const void *)CONTEXT(ctx, 8);
		sk = (const void *)CONTEXT(ctx, 16);
		kern = arg->kern;
	} else {
		kern = (u8)CONTEXT(ctx, 24);	/* the rest of the register is nobody's */
		sk = (const void *)CONTEXT(ctx, 32);
	}
	if (sk && !kern && is_tcp(sk, true)) {
		leave_mark(SEEN_ACCEPT, (u64)sk);
		accepted((void *)ctx, sk, true);
	} else if (!sk) {
		count_own((void *)bpf_get_current_task(), KIND_ACCEPT);
	}
	return 0;
}

static __always_inline int connect_failed(void *ctx, const struct socket *sock, const void *address, int ret,
					  bool gave_up)
{
	const struct sock *sk;

	if (!ret)
		return 0;
	sk = sock->sk;
	if (sk && is_tcp(sk, true)) {
		leave_mark(SEEN_CONNECT, (u64)sk);
		connect_returned(ctx, sk, ret, address, false, gave_up, true);
	}
	return 0;
}

/* TCP Fast Open does not come by here: it begins in sendmsg(2). */
SEC("fexit/inet_stream_connect")
int BPF_PROG(connect_returns, struct socket *sock, const void *address, int length, int flags, int ret)
{
	(void)length;
	return connect_failed(ctx, sock, address, ret, ret == -EINPROGRESS && !(flags & O_NONBLOCK));
}

/* Landlock, SELinux and the like refuse a connect before TCP hears of it. */
SEC("fexit/security_socket_connect")
int BPF_PROG(connect_denied, struct socket *sock, const void *address, int length, int ret)
{
	(void)length;
	return connect_failed(ctx, sock, address, ret, false);
}

SEC("fexit/inet_listen")
int BPF_PROG(listen_returns, struct socket *sock, int backlog, int ret)
{
	const struct sock *sk;

	(void)backlog;
	if (ret)
		return 0;
	sk = sock->sk;
	if (sk && is_tcp(sk, true))
		listen_returned(ctx, sk, true);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
#define NATIVE "__x64_sys_"
#define COMPAT "__ia32_compat_sys_"
#define NR_EXECVE 59
#define NR_EXECVEAT 322
#define NR_COMPAT_EXECVE 11
#define NR_COMPAT_EXECVEAT 358
#elif defined(__TARGET_ARCH_arm64)
#define NATIVE "__arm64_sys_"
#define COMPAT "__arm64_compat_sys_"
#define NR_EXECVE 221
#define NR_EXECVEAT 281
#define NR_COMPAT_EXECVE 11
#define NR_COMPAT_EXECVEAT 387
#endif
/* Not through the argument: its type is incomplete in the BTF of some kernels (5.10). */
#define EXEC_RETURNS(name, function, at, compat)			\
SEC("fexit/" function)							\
int name(const u64 *ctx)						\
{									\
	long ret = ctx[1];						\
									\
	return ret < 0 ? exec_returned((void *)ctx, ret, at, compat, true) : 0;	\
}

EXEC_RETURNS(execve_returns, NATIVE "execve", false, false)
EXEC_RETURNS(execveat_returns, NATIVE "execveat", true, false)
EXEC_RETURNS(compat_execve_returns, COMPAT "execve", false, true)
EXEC_RETURNS(compat_execveat_returns, COMPAT "execveat", true, true)

#define SIGSYS 31
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#define SECCOMP_RET_KILL_THREAD 0U

static __always_inline bool in_compat_call(const struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
#else
	return BPF_CORE_READ(task, thread_info.flags) >> TIF_32BIT & 1;
#endif
}

/* An exec for which seccomp kills never begins. But the kill is told to the audit system,
 * before it is done and whether that listens or not (4.18, commit 326bee0286d7), unless
 * the sysctl kernel.seccomp.actions_logged leaves kills out. */
SEC("fentry/audit_seccomp")
int BPF_PROG(exec_killed, unsigned long call, long signal, int action)
{
	bool at, compat;

	if (signal != SIGSYS || ((u32)action != SECCOMP_RET_KILL_PROCESS && (u32)action != SECCOMP_RET_KILL_THREAD))
		return 0;
	compat = in_compat_call((void *)bpf_get_current_task());
	at = call == (compat ? NR_COMPAT_EXECVEAT : NR_EXECVEAT);
	if (at || call == (compat ? NR_COMPAT_EXECVE : NR_EXECVE))
		exec_returned(ctx, 1, at, compat, true);
	return 0;
}
