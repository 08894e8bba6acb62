// SPDX-License-Identifier: Apache-2.0
/* Rows of many datagrams in one call, and of what lies in the error queue. */
#include "traffic.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/udp.h>

#define BATCH 31
#define BATCHES 67
#define SEGMENT 1009
#define SEGMENTS 13

/* One batch each way in turn. */

static void give_batch(int handle, struct flow *flow, unsigned turn)
{
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	int went;

	memset(messages, 0, sizeof(messages));
	for (unsigned at = 0; at < BATCH; at++) {
		parts[at] = (struct iovec){payload(), prime_from(2 + (turn * BATCH + at) % 1447)};
		messages[at].msg_hdr.msg_iov = &parts[at];
		messages[at].msg_hdr.msg_iovlen = 1;
	}
	for (int done = 0; done < BATCH; done += went) {
		went = CHECK(sendmmsg(handle, messages + done, (unsigned)(BATCH - done), 0));
		for (int at = 0; at < went; at++)
			sent(flow, messages[done + at].msg_len);
	}
}

/* Returns whom the last was from. */
static struct address take_batch(int handle)
{
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	struct address from[BATCH];
	int got;

	memset(messages, 0, sizeof(messages));
	for (int done = 0; done < BATCH; done += got) {
		for (unsigned at = 0; at < BATCH; at++) {
			parts[at] = (struct iovec){room(), CHUNK};
			messages[at].msg_hdr = (struct msghdr){.msg_iov = &parts[at], .msg_iovlen = 1};
			messages[at].msg_hdr.msg_name = &from[at].storage;
			messages[at].msg_hdr.msg_namelen = sizeof(from[at].storage);
		}
		got = CHECK(recvmmsg(handle, messages, (unsigned)(BATCH - done), MSG_WAITFORONE, NULL));
		for (int at = 0; at < got; at++) {
			from[at].length = messages[at].msg_hdr.msg_namelen;
			received(flow_with(handle, "udp", SYSCALL, &from[at]), messages[at].msg_len);
		}
	}
	return from[0];
}

static void answer_batches(int handle)
{
	for (unsigned turn = 0; turn < BATCHES; turn++) {
		struct address from = take_batch(handle);

		if (turn == 0)
			connect_to(handle, &from);
		give_batch(handle, flow_with(handle, "udp", SYSCALL, &from), turn + 7);
	}
}

static void ask_batches(int handle, const struct address *server)
{
	struct flow *flow;

	connect_to(handle, server);
	flow = flow_of(handle, "udp", SYSCALL);
	for (unsigned turn = 0; turn < BATCHES; turn++) {
		give_batch(handle, flow, turn);
		take_batch(handle);
	}
}

static void batches(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = answer_batches, .client = ask_batches});
}

/* UDP_SEGMENT: one call, many datagrams; UDP_GRO: the other way round. */

static struct message counted;

static void take_segments(int handle)
{
	int yes = 1;
	uint64_t left = (uint64_t)SEGMENT * SEGMENTS * BATCHES;

	if (setsockopt(handle, IPPROTO_UDP, UDP_GRO, &yes, sizeof(yes)) < 0)
		not_here("UDP_GRO");
	while (left > 0) {
		struct address from = {.length = sizeof(from.storage)};
		ssize_t got =
			CHECK(recvfrom(handle, room(), CHUNK, 0, (struct sockaddr *)&from.storage, &from.length));

		left -= (uint64_t)received(flow_with(handle, "udp", SYSCALL, &from), got);
		if (left % ((uint64_t)SEGMENT * SEGMENTS) == 0)
			tell(counted, left);
	}
}

static void give_segments(int handle, const struct address *server)
{
	int size = SEGMENT;
	struct flow *flow;

	connect_to(handle, server);
	if (setsockopt(handle, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) < 0)
		not_here("UDP_SEGMENT");
	flow = flow_of(handle, "udp", SYSCALL);
	for (unsigned turn = 0; turn < BATCHES; turn++) {
		MUST(CHECK(sent(flow, send(handle, payload(), SEGMENT * SEGMENTS, 0))) == SEGMENT * SEGMENTS);
		hear(counted);
	}
}

static void segments(void)
{
	counted = new_message();
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = take_segments, .client = give_segments});
}

/* With a time stamp the error queue gives back what was sent, as a whole packet: no payload that moved. */

static void give_stamped(int handle, const struct address *server)
{
	int what = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	struct pollfd wait = {handle, 0, 0};
	struct flow *flow;

	connect_to(handle, server);
	if (setsockopt(handle, SOL_SOCKET, SO_TIMESTAMPING, &what, sizeof(what)) < 0)
		not_here("SO_TIMESTAMPING");
	flow = flow_of(handle, "udp", SYSCALL);
	for (unsigned turn = 0; turn < 101; turn++) {
		char control[256];
		struct iovec part = {room(), CHUNK};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
		size_t count = prime_from(200 + turn);

		message.msg_controllen = sizeof(control);
		MUST(CHECK(sent(flow, send(handle, payload(), count, 0))) == (ssize_t)count);
		MUST(poll(&wait, 1, 20000) == 1 && wait.revents & POLLERR);
		MUST(CHECK(recvmsg(handle, &message, MSG_ERRQUEUE)) >= (ssize_t)count);
		hear(counted);
	}
}

static void take_stamped(int handle)
{
	for (unsigned turn = 0; turn < 101; turn++) {
		struct address from = {.length = sizeof(from.storage)};
		ssize_t got =
			CHECK(recvfrom(handle, room(), CHUNK, 0, (struct sockaddr *)&from.storage, &from.length));

		received(flow_with(handle, "udp", SYSCALL, &from), got);
		tell(counted, turn);
	}
}

static void error_queue(void)
{
	counted = new_message();
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = take_stamped, .client = give_stamped});
}

/* Sent to a port where nobody is: each was sent, the answer is an error. */

static struct message refusing;

/* What is connected elsewhere takes nothing from here. */
static void refuse(int handle)
{
	struct address elsewhere = address_of(FAR_IP, 9);

	connect_to(handle, &elsewhere);
	tell(refusing, 1);
	hear(counted);
}

static void give_refused(int handle, const struct address *server)
{
	int yes = 1;
	struct flow *flow;

	hear(refusing);
	connect_to(handle, server);
	CHECK(setsockopt(handle, IPPROTO_IP, IP_RECVERR, &yes, sizeof(yes)));
	flow = flow_of(handle, "udp", SYSCALL);
	for (unsigned turn = 0; turn < 31; turn++) {
		char control[256];
		struct iovec part = {room(), CHUNK};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};

		message.msg_controllen = sizeof(control);
		MUST(sent(flow, send(handle, payload(), 997, 0)) > 0 || errno == ECONNREFUSED);
		recvmsg(handle, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
		MUST(recv(handle, room(), CHUNK, MSG_DONTWAIT) < 0);
	}
	MUST(flow->sends > 0);
	tell(counted, 1);
}

static void nobody(void)
{
	counted = new_message();
	refusing = new_message();
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = refuse, .client = give_refused});
}

const struct row message_rows[] = {
	{"mmsg", "sendmmsg and recvmmsg", batches},
	{"udp-segments", "UDP_SEGMENT and UDP_GRO", segments},
	{"error-queue", "what was sent comes back by MSG_ERRQUEUE", error_queue},
	{"udp-refused", "sent where nobody is", nobody},
	{0},
};
