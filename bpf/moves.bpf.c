// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The bytes that calls move, where the kernel does not tell of them itself: before 6.3 (commit
 * 40e0b0908142) it has no tracepoints at the end of each send and receive. So these are at the
 * return of what each family of sockets sends and receives with, whichever call came there:
 * system calls of 64 and 32 bits, io_uring, and the kernel's own.
 *
 * Each function is called through a table of operations, so that no compiler can have inlined it.
 */
#define HAS_BUDGETS
#define MAKES_PARTS
#include "data.bpf.h"

LICENSE("Dual BSD/GPL");

/* `end` is what to do when a call has ended: packet and vsock sockets have no connections of TCP. */
#define SENDS(name, function, end)							\
SEC("fexit/" function)									\
int BPF_PROG(name, struct socket *sock, void *message, unsigned long size, int ret)	\
{											\
	(void)message;									\
	(void)size;									\
	SAFE_TO_DETACH;									\
	return sock->sk ? end(ctx, sock->sk, ret, TYPED) : 0;				\
}

#define RECEIVES(name, function, end)							\
SEC("fexit/" function)									\
int BPF_PROG(name, struct socket *sock, void *message, unsigned long size, int flags, int ret)	\
{											\
	(void)message;									\
	(void)size;									\
	SAFE_TO_DETACH;									\
	return sock->sk ? end(ctx, sock->sk, ret, flags, TYPED) : 0;			\
}

/* TCP, UDP, SCTP, MPTCP, ICMP and raw IP. */
SENDS(inet_sends, "inet_sendmsg", sent)
SENDS(inet6_sends, "inet6_sendmsg", sent)
RECEIVES(inet_receives, "inet_recvmsg", received)
RECEIVES(inet6_receives, "inet6_recvmsg", received)
RECEIVES(raw6_receives, "sock_common_recvmsg", received)	/* raw IPv6 */

/* sendfile(2) and splice(2), until they went through sendmsg as well (6.5, commit dc97391e6610). What
 * has no such operation of its own sends by inet_sendmsg() from in here. */
SEC("fexit/inet_sendpage")
int BPF_PROG(inet_sends_page, struct socket *sock, void *page, int offset, unsigned long size, int flags, long ret)
{
	const struct sock *sk;
	u16 protocol;

	(void)page;
	(void)offset;
	(void)size;
	(void)flags;
	SAFE_TO_DETACH;
	sk = sock->sk;
	if (!sk)
		return 0;
	protocol = FIELD(TYPED, sk, sk_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE)
		return 0;
	return sent(ctx, sk, ret, TYPED);
}

SENDS(packet_sends, "packet_sendmsg", message_sent)
RECEIVES(packet_receives, "packet_recvmsg", message_received)

/* In a module, as a rule: where it tells its types (5.11) and is loaded when this is. Streams were one
 * with sequenced packets from 5.14 on (commit a9e29e5511b9). */
SENDS(vsock_sends, "vsock_connectible_sendmsg", message_sent)
RECEIVES(vsock_receives, "vsock_connectible_recvmsg", message_received)
SENDS(vsock_stream_sends, "vsock_stream_sendmsg", message_sent)
RECEIVES(vsock_stream_receives, "vsock_stream_recvmsg", message_received)
SENDS(vsock_datagram_sends, "vsock_dgram_sendmsg", message_sent)
RECEIVES(vsock_datagram_receives, "vsock_dgram_recvmsg", message_received)
