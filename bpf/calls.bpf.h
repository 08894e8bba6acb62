/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The TCP socket behind a descriptor, and what the return of a system call says of it: for
 * the probes of tcp.bpf.c and of again.bpf.c alike.
 */
#ifndef CALLS_BPF_H
#define CALLS_BPF_H

#include "socket.bpf.h"

/* The file behind a descriptor of the current process, or NULL. */
static __always_inline struct file *file_of(int fd)
{
	struct fdtable *table = current_fds();
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = NULL;

	if (fd < 0 || (u32)fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

/* The TCP socket in a file, or NULL; a file that accept(2) gave is known to be a socket. */
static __always_inline struct sock *tcp_of(struct file *file, const bool is_socket)
{
	struct socket *socket;
	struct sock *sk;

	if (!file || (!is_socket && (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK))
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	return sk && is_tcp(sk, false) ? sk : NULL;
}

/* connect(2) has returned, the socket is behind its descriptor. */
static __always_inline int connect_call_returned(void *ctx, long ret)
{
	const struct pt_regs *regs;
	struct file *file;
	struct sock *sk;
	bool gave_up;

	if (!ret)
		return 0;
	regs = user_regs((void *)bpf_get_current_task());
	file = file_of((int)REGS_ARG1(regs));
	sk = tcp_of(file, false);
	if (!sk || take_mark(SEEN_CONNECT, (u64)sk))
		return 0;
	gave_up = ret == -EINPROGRESS && !(BPF_CORE_READ(file, f_flags) & O_NONBLOCK);
	connect_returned(ctx, sk, ret, (const void *)REGS_ARG2(regs), true, gave_up, false);
	return 0;
}

static __always_inline int listen_call_returned(void *ctx, long ret)
{
	const struct pt_regs *regs;
	struct sock *sk;

	if (ret)
		return 0;
	regs = user_regs((void *)bpf_get_current_task());
	sk = tcp_of(file_of((int)REGS_ARG1(regs)), false);
	if (sk)
		listen_returned(ctx, sk, false);
	return 0;
}

#endif
