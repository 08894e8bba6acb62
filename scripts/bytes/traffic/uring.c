// SPDX-License-Identifier: Apache-2.0
/* Rows of io_uring: TCP and UDP, with and without a thread of the kernel, without copies, many answers to one request. */
#include "ring.h"

#define BY_RING "io_uring"
#define TURNS 251
#define BUFFERS 64
#define BUFFER_BYTES 4096
#define GROUP 7

static unsigned setup;

/* A request on the file that is fixed in the ring. */
static struct io_uring_sqe request(unsigned char code, const void *address, size_t count, unsigned flags)
{
	struct io_uring_sqe made = {.opcode = code, .flags = IOSQE_FIXED_FILE, .fd = 0};

	made.addr = (uintptr_t)address;
	made.len = (unsigned)count;
	made.msg_flags = flags;
	return made;
}

/* The result, counted by one of sent() and received(); a kernel that does not know the request says EINVAL. */
static ssize_t by_ring(struct ring *ring, struct flow *flow, ssize_t (*count)(struct flow *, ssize_t),
		       const struct io_uring_sqe *what)
{
	int result = perform(ring, what);

	if (result < 0) {
		errno = -result;
		if (errno == EINVAL || errno == EOPNOTSUPP)
			not_here("io_uring request");
		die("io_uring request", __LINE__);
	}
	return count(flow, result);
}

static void push_by_ring(struct ring *ring, struct flow *flow, size_t left)
{
	while (left > 0) {
		size_t portion = left < 30011 ? left : 30011;
		struct io_uring_sqe what = request(IORING_OP_SEND, payload(), portion, MSG_NOSIGNAL);

		left -= (size_t)by_ring(ring, flow, sent, &what);
	}
}

static void pull_by_ring(struct ring *ring, struct flow *flow)
{
	struct io_uring_sqe what = request(IORING_OP_RECV, room(), 40009, 0);

	while (by_ring(ring, flow, received, &what) > 0)
		;
}

static void ring_for(struct ring *ring, int handle, struct flow *flow)
{
	open_ring(ring, setup);
	fix_file(ring, handle);
	flow->via = BY_RING;
}

static void push_then_pull(int handle, struct flow *flow)
{
	struct ring ring;

	ring_for(&ring, handle, flow);
	push_by_ring(&ring, flow, LOT);
	half_close(handle);
	pull_by_ring(&ring, flow);
}

static void pull_then_push(int handle, struct flow *flow)
{
	struct ring ring;

	ring_for(&ring, handle, flow);
	pull_by_ring(&ring, flow);
	push_by_ring(&ring, flow, LOT);
}

static void run_streams(unsigned flags)
{
	setup = flags;
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_then_push, .client = push_then_pull});
}

static void streams(void)
{
	run_streams(0);
}

static void polled_streams(void)
{
	run_streams(IORING_SETUP_SQPOLL);
}

/* A request that is handed to a worker thread at once. */
static void pull_asynchronously(int handle, struct flow *flow)
{
	struct io_uring_sqe what = request(IORING_OP_RECV, room(), 40009, 0);
	struct ring ring;

	ring_for(&ring, handle, flow);
	what.flags |= IOSQE_ASYNC;
	while (by_ring(&ring, flow, received, &what) > 0)
		;
}

static void push_plainly(int handle, struct flow *flow)
{
	push(handle, flow, LOT);
}

static void asynchronous(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_asynchronously, .client = push_plainly});
}

/* Datagrams, with their addresses. */

static ssize_t message_by_ring(struct ring *ring, unsigned char code, struct msghdr *message)
{
	struct io_uring_sqe what = request(code, message, 1, 0);
	int result = perform(ring, &what);

	if (result < 0) {
		errno = -result;
		die("io_uring message", __LINE__);
	}
	return result;
}

static void answer_messages(int handle)
{
	struct ring ring;

	open_ring(&ring, setup);
	fix_file(&ring, handle);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		struct address from = {.length = sizeof(from.storage)};
		struct iovec part = {room(), CHUNK};
		struct msghdr message = {.msg_name = &from.storage, .msg_namelen = from.length, .msg_iov = &part};
		struct flow *flow;
		ssize_t got;

		message.msg_iovlen = 1;
		got = message_by_ring(&ring, IORING_OP_RECVMSG, &message);
		from.length = message.msg_namelen;
		flow = flow_with(handle, "udp", BY_RING, &from);
		received(flow, got);
		part = (struct iovec){payload(), prime_from((unsigned)got / 2 + 2)};
		sent(flow, message_by_ring(&ring, IORING_OP_SENDMSG, &message));
	}
}

static void ask_messages(int handle, const struct address *server)
{
	struct ring ring;
	struct flow *flow;

	open_ring(&ring, setup);
	fix_file(&ring, handle);
	connect_to(handle, server);
	flow = flow_of(handle, "udp", BY_RING);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		struct io_uring_sqe out = request(IORING_OP_SEND, payload(), prime_from(2 + turn * 3), 0);
		struct io_uring_sqe in = request(IORING_OP_RECV, room(), CHUNK, 0);

		by_ring(&ring, flow, sent, &out);
		MUST(by_ring(&ring, flow, received, &in) > 0);
	}
}

static void messages(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = answer_messages, .client = ask_messages});
}

static void polled_messages(void)
{
	setup = IORING_SETUP_SQPOLL;
	messages();
}

/* Without copies (6.0): each request is answered twice, and the second tells that the buffer is free again. */

static void push_without_copy(int handle, struct flow *flow)
{
	size_t left = LOT * 3;
	struct ring ring;

	ring_for(&ring, handle, flow);
	while (left > 0) {
		size_t portion = left < CHUNK ? left : CHUNK;
		struct io_uring_sqe what = request(IORING_OP_SEND_ZC, payload(), portion, MSG_NOSIGNAL);
		struct answer answer;

		submit(&ring, &what);
		answer = answer_of(&ring);
		if (answer.result < 0) {
			errno = -answer.result;
			not_here("IORING_OP_SEND_ZC");
		}
		left -= (size_t)sent(flow, answer.result);
		if (answer.flags & IORING_CQE_F_MORE)
			MUST(answer_of(&ring).flags & IORING_CQE_F_NOTIF);
	}
}

static void pull_plainly(int handle, struct flow *flow)
{
	pull_all(handle, flow);
}

static void zero_copy(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_plainly, .client = push_without_copy});
}

/* One request, an answer for each arrival (6.0), into buffers that the ring chooses. */

static void give_buffers(struct ring *ring, char *buffers, unsigned first, unsigned count)
{
	struct io_uring_sqe what = {.opcode = IORING_OP_PROVIDE_BUFFERS, .fd = (int)count, .len = BUFFER_BYTES};

	what.addr = (uintptr_t)(buffers + (size_t)first * BUFFER_BYTES);
	what.off = first;
	what.buf_group = GROUP;
	submit(ring, &what);
}

static void pull_at_arrival(int handle, struct flow *flow)
{
	static char buffers[BUFFERS][BUFFER_BYTES];
	struct io_uring_sqe what = request(IORING_OP_RECV, NULL, 0, 0);
	bool armed = false;
	struct ring ring;

	ring_for(&ring, handle, flow);
	give_buffers(&ring, buffers[0], 0, BUFFERS);
	what.flags |= IOSQE_BUFFER_SELECT;
	what.buf_group = GROUP;
	what.ioprio = IORING_RECV_MULTISHOT;
	what.user_data = 1; /* that of the buffers is 0 */
	for (;;) {
		struct answer answer;

		if (!armed)
			submit(&ring, &what);
		armed = true;
		answer = answer_of(&ring);
		if (answer.mark == 0) {
			MUST(answer.result >= 0);
			continue;
		}
		armed = answer.flags & IORING_CQE_F_MORE;
		if (answer.result == -EINVAL) {
			errno = EINVAL;
			not_here("IORING_RECV_MULTISHOT");
		}
		if (answer.result == -ENOBUFS)
			continue;
		MUST(answer.result >= 0);
		if (answer.result == 0)
			break;
		received(flow, answer.result);
		MUST(answer.flags & IORING_CQE_F_BUFFER);
		give_buffers(&ring, buffers[0], answer.flags >> IORING_CQE_BUFFER_SHIFT, 1);
	}
}

static void multishot(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_at_arrival, .client = push_plainly});
}

/* Spliced by the ring: out of a pipe and into one. */

static ssize_t splice_by_ring(struct ring *ring, int from, int to, size_t count)
{
	struct io_uring_sqe what = {.opcode = IORING_OP_SPLICE, .fd = to, .len = (unsigned)count};
	int result;

	what.splice_fd_in = from;
	what.splice_off_in = what.off = UINT64_MAX;
	result = perform(ring, &what);
	if (result < 0) {
		errno = -result;
		not_here("IORING_OP_SPLICE");
	}
	return result;
}

static void splice_out(int handle, struct flow *flow)
{
	size_t left = LOT;
	struct ring ring;
	int ends[2];

	flow->via = "";
	open_ring(&ring, 0);
	CHECK(pipe2(ends, O_CLOEXEC));
	while (left > 0) {
		size_t portion = left < 40009 ? left : 40009;

		MUST(write(ends[1], payload(), portion) == (ssize_t)portion);
		left -= portion;
		while (portion > 0)
			portion -= (size_t)sent(flow, splice_by_ring(&ring, ends[0], handle, portion));
	}
}

static void splice_in(int handle, struct flow *flow)
{
	struct ring ring;
	ssize_t got;
	int ends[2];

	flow->via = "";
	open_ring(&ring, 0);
	CHECK(pipe2(ends, O_CLOEXEC));
	while ((got = received(flow, splice_by_ring(&ring, handle, ends[1], 40009))) > 0)
		while (got > 0)
			got -= CHECK(read(ends[0], room(), (size_t)got));
}

static void splices(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = splice_in, .client = splice_out});
}

const struct row uring_rows[] = {
	{"uring", "TCP by io_uring, both ways", streams},
	{"uring-polled", "the same with a thread of the kernel (SQPOLL)", polled_streams},
	{"uring-async", "received by a worker of io_uring (IOSQE_ASYNC)", asynchronous},
	{"uring-udp", "datagrams by io_uring", messages},
	{"uring-udp-polled", "the same with a thread of the kernel", polled_messages},
	{"uring-zerocopy", "sent without copies (IORING_OP_SEND_ZC)", zero_copy},
	{"uring-multishot", "one request, many answers", multishot},
	{"uring-splice", "spliced by io_uring", splices},
	{0},
};
