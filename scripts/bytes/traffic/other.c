// SPDX-License-Identifier: Apache-2.0
/* Rows of transports that not every kernel has: MPTCP, SCTP, vsock. */
#include "traffic.h"

#include <linux/vm_sockets.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define MESSAGES 503

static void push_both(int handle, struct flow *flow)
{
	push_and_pull(handle, flow, LOT, SIZE_MAX);
}

static void multipath(void)
{
	run_pair(&(struct pair){
		FAR, NEAR, FAR_IP, "mptcp", SYSCALL, SOCK_STREAM, IPPROTO_MPTCP, .server = push_both, .client = push_both});
}

/* SCTP keeps messages: what is read at once is no more than one of them. It has no half-closed connections: who shuts one
 * down ends the other direction, too. */

static void give_messages(int handle, struct flow *flow)
{
	for (unsigned turn = 0; turn < MESSAGES; turn++) {
		CHECK(sent(flow, send(handle, payload(), prime_from(100 + turn * 3), MSG_NOSIGNAL)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
}

static void answer_messages(int handle, struct flow *flow)
{
	for (unsigned turn = 0; turn < MESSAGES; turn++) {
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
		CHECK(sent(flow, send(handle, payload(), prime_from(50 + turn), MSG_NOSIGNAL)));
	}
}

static void streams(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, "sctp", SYSCALL, SOCK_STREAM, IPPROTO_SCTP, .server = answer_messages,
				.client = give_messages});
}

/* One socket with many associations. */

static struct message port;

static void serve_associations(void)
{
	struct address here = address_of(FAR_IP, 0);
	int handle = any_socket(&here, SOCK_SEQPACKET, IPPROTO_SCTP);

	bind_to(handle, &here);
	CHECK(listen(handle, 7));
	tell(port, local_port(handle));
	for (unsigned turn = 0; turn < MESSAGES; turn++) {
		struct address from = {.length = sizeof(from.storage)};
		ssize_t got =
			CHECK(recvfrom(handle, room(), CHUNK, 0, (struct sockaddr *)&from.storage, &from.length));
		struct flow *flow = flow_with(handle, "sctp", SYSCALL, &from);

		received(flow, got);
		CHECK(sent(flow, sendto(handle, payload(), prime_from(50 + turn), MSG_NOSIGNAL,
					(struct sockaddr *)&from.storage, from.length)));
	}
	close(handle);
}

static void associate(void)
{
	struct address to = address_of(FAR_IP, (uint16_t)hear(port)), here = address_of(NEAR_IP, 0);
	int handle = any_socket(&to, SOCK_SEQPACKET, IPPROTO_SCTP);
	struct flow *flow;

	bind_to(handle, &here);
	flow = flow_with(handle, "sctp", SYSCALL, &to);
	for (unsigned turn = 0; turn < MESSAGES; turn++) {
		CHECK(sent(flow, sendto(handle, payload(), prime_from(100 + turn), MSG_NOSIGNAL,
					(struct sockaddr *)&to.storage, to.length)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
	close(handle);
}

static void associations(void)
{
	port = new_message();
	begin(FAR, serve_associations);
	begin(NEAR, associate);
	finish();
}

/* vsock, from this machine to itself (VMADDR_CID_LOCAL, 5.6). */

static struct address local_context(unsigned number)
{
	struct address address = {.length = sizeof(struct sockaddr_vm)};
	struct sockaddr_vm *vm = (struct sockaddr_vm *)&address.storage;

	*vm = (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = number};
	return address;
}

static void serve_context(void)
{
	struct address here = local_context(VMADDR_PORT_ANY), name;
	int listener = any_socket(&here, SOCK_STREAM, 0), handle;

	if (bind(listener, (struct sockaddr *)&here.storage, here.length) < 0)
		not_here("vsock loopback");
	CHECK(listen(listener, 7));
	name = name_of(listener);
	tell(port, ((const struct sockaddr_vm *)&name.storage)->svm_port);
	handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	push_and_pull(handle, flow_of(handle, "vsock", SYSCALL), LOT, SIZE_MAX);
	close(handle);
}

static void connect_context(void)
{
	struct address to = local_context((unsigned)hear(port));
	int handle = any_socket(&to, SOCK_STREAM, 0);

	connect_to(handle, &to);
	push_and_pull(handle, flow_of(handle, "vsock", SYSCALL), LOT, SIZE_MAX);
	close(handle);
}

static void virtual(void)
{
	port = new_message();
	begin(HOME, serve_context);
	begin(HOME, connect_context);
	finish();
}

const struct row other_rows[] = {
	{"mptcp", "Multipath TCP, both ways", multipath},
	{"sctp", "SCTP, one association, both ways", streams},
	{"sctp-many", "SCTP by sockets for many associations", associations},
	{"vsock", "vsock over its loopback, both ways", virtual},
	{0},
};
