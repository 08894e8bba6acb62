// SPDX-License-Identifier: Apache-2.0
/* Rows of one socket and several processes: handed on, inherited, fetched, and taken to another namespace. */
#include "traffic.h"

#define PART 30011

static struct message port, turn_of[2];

/* A socket that sends a descriptor, or takes one, with a letter. */
static void hand_over(int channel, int handle)
{
	char letter = 'h';
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec part = {&letter, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &handle, sizeof(int));
	MUST(CHECK(sendmsg(channel, &message, 0)) == 1);
}

static int take_over(int channel)
{
	char letter;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = {&letter, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
	int handle;

	MUST(CHECK(recvmsg(channel, &message, MSG_CMSG_CLOEXEC)) == 1);
	MUST(CMSG_FIRSTHDR(&message) != NULL);
	memcpy(&handle, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return handle;
}

/* The client of all of these: sends two parts and takes one for each, on one connection. */
static void ask_twice(void)
{
	struct address to = address_of(FAR_IP, (uint16_t)hear(port));
	int handle = any_socket(&to, SOCK_STREAM, IPPROTO_TCP);
	struct flow *flow;

	connect_to(handle, &to);
	flow = flow_of(handle, "tcp", SYSCALL);
	for (int part = 0; part < 2; part++) {
		push(handle, flow, PART);
		pull(handle, flow, PART);
	}
	close(handle);
}

static int accept_one(void)
{
	struct address here = address_of(FAR_IP, 0);
	int listener = any_socket(&here, SOCK_STREAM, IPPROTO_TCP), handle;

	bind_to(listener, &here);
	CHECK(listen(listener, 7));
	tell(port, local_port(listener));
	handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	limit_waits(handle);
	return handle;
}

static void answer_part(int handle)
{
	struct flow *flow = flow_of(handle, "tcp", SYSCALL);

	pull(handle, flow, PART);
	push(handle, flow, PART);
}

/* By SCM_RIGHTS, after the first part. */

static int channel[2];

static void accept_and_hand_over(void)
{
	int handle = accept_one();

	answer_part(handle);
	hand_over(channel[0], handle);
	close(handle);
}

static void take_over_and_answer(void)
{
	int handle = take_over(channel[1]);

	answer_part(handle);
	close(handle);
}

static void handed(void)
{
	port = new_message();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel));
	begin(FAR, accept_and_hand_over);
	begin(FAR, take_over_and_answer);
	begin(NEAR, ask_twice);
	finish();
}

/* By pidfd_getfd (5.6). */

static void accept_and_wait(void)
{
	int handle = accept_one();

	answer_part(handle);
	tell(turn_of[1], (uint64_t)getpid() << 32 | (uint64_t)handle);
	hear(turn_of[0]);
	close(handle);
}

static void fetch_and_answer(void)
{
	uint64_t what = hear(turn_of[1]);
	int process = (int)syscall(SYS_pidfd_open, (pid_t)(what >> 32), 0), handle;

	if (process < 0)
		not_here("pidfd_open");
	handle = (int)syscall(SYS_pidfd_getfd, process, (int)(what & 0xffffffff), 0);
	if (handle < 0)
		not_here("pidfd_getfd");
	answer_part(handle);
	tell(turn_of[0], 1);
	close(handle);
}

static void fetched(void)
{
	port = new_message();
	turn_of[0] = new_message();
	turn_of[1] = new_message();
	begin(FAR, accept_and_wait);
	begin(FAR, fetch_and_answer);
	begin(NEAR, ask_twice);
	finish();
}

/* Inherited: parent and child take turns on the same socket. */

static int shared;

static void answer_as_child(void)
{
	answer_part(shared);
	close(shared);
}

static void accept_and_fork(void)
{
	shared = accept_one();
	answer_part(shared);
	begin(FAR, answer_as_child);
	finish();
	close(shared);
}

static void inherited(void)
{
	port = new_message();
	begin(FAR, accept_and_fork);
	begin(NEAR, ask_twice);
	finish();
}

/* A UDP socket of two processes, neither of which made it known to the other: both send and receive at their turn. */

static void take_datagrams(unsigned count)
{
	while (count-- > 0) {
		struct address from = {.length = sizeof(from.storage)};
		ssize_t got = CHECK(recvfrom(shared, room(), CHUNK, 0, (struct sockaddr *)&from.storage, &from.length));
		struct flow *flow = flow_with(shared, "udp", SYSCALL, &from);

		received(flow, got);
		CHECK(sent(flow, sendto(shared, payload(), prime_from((unsigned)got), 0,
					(struct sockaddr *)&from.storage, from.length)));
	}
}

static void take_as_child(void)
{
	take_datagrams(53);
}

static void share_datagrams(void)
{
	struct address here = address_of(FAR_IP, 0);

	shared = any_socket(&here, SOCK_DGRAM, IPPROTO_UDP);
	bind_to(shared, &here);
	tell(port, local_port(shared));
	take_datagrams(31);
	begin(FAR, take_as_child);
	finish();
	take_datagrams(17);
	close(shared);
}

static void ask_datagrams(void)
{
	struct address to = address_of(FAR_IP, (uint16_t)hear(port));
	int handle = any_socket(&to, SOCK_DGRAM, IPPROTO_UDP);
	struct flow *flow;

	connect_to(handle, &to);
	flow = flow_of(handle, "udp", SYSCALL);
	for (unsigned turn = 0; turn < 31 + 53 + 17; turn++) {
		CHECK(sent(flow, send(handle, payload(), prime_from(100 + turn), 0)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
	close(handle);
}

static void inherited_datagrams(void)
{
	port = new_message();
	begin(FAR, share_datagrams);
	begin(NEAR, ask_datagrams);
	finish();
}

/* A process that has left the namespace of its socket. */

static void answer_elsewhere(int handle, struct flow *flow)
{
	enter(HOME);
	push_and_pull(handle, flow, LOT, SIZE_MAX);
}

static void elsewhere(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = answer_elsewhere, .client = answer_elsewhere});
}

/* Sockets that no network sees, and one that does beside them: only that is to be told. */

static void chatter(int handle, struct flow *flow)
{
	int pairs[2], netlink = CHECK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
	struct {
		struct {
			uint32_t length;
			uint16_t type, flags;
			uint32_t sequence, port;
		} header;
		unsigned char family, padding[15];
	} request = {.header = {.length = 17, .type = 18, .flags = 0x301, .sequence = 1}}; /* RTM_GETLINK, all */

	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pairs));
	for (unsigned turn = 0; turn < 101; turn++) {
		MUST(CHECK(send(pairs[0], payload(), 1009, 0)) == 1009);
		MUST(CHECK(recv(pairs[1], room(), CHUNK, 0)) == 1009);
	}
	MUST(CHECK(send(netlink, &request, 17, 0)) == 17);
	MUST(CHECK(recv(netlink, room(), CHUNK, 0)) > 0);
	push_and_pull(handle, flow, 20011, SIZE_MAX);
}

static void beside(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = chatter, .client = chatter});
}

const struct row owner_rows[] = {
	{"handed-on", "a connection passed by SCM_RIGHTS", handed},
	{"fetched", "a connection taken by pidfd_getfd", fetched},
	{"inherited", "a connection of a parent and its child", inherited},
	{"udp-inherited", "a UDP socket of a parent and its child", inherited_datagrams},
	{"other-namespace", "processes that left the namespace of their socket", elsewhere},
	{"beside-unix", "beside AF_UNIX and netlink, which are not told", beside},
	{0},
};
