// SPDX-License-Identifier: Apache-2.0
/* TCP rows: in bulk, in many connections, slowly, partially, by each of the calls, and read twice or late. */
#include "traffic.h"

#include <sys/uio.h>

#define MANY 503
#define SLOW_TIMES 31
#define SLOW_MS 100

static void push_bulk(int handle, struct flow *flow)
{
	push(handle, flow, BULK);
	half_close(handle);
	pull_all(handle, flow);
}

static void just_pull(int handle, struct flow *flow)
{
	pull_all(handle, flow);
}

static void both_bulk(int handle, struct flow *flow)
{
	push_and_pull(handle, flow, BULK, SIZE_MAX);
}

static void up(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = just_pull, .client = push_bulk});
}

static void down(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = push_bulk, .client = just_pull});
}

static void both(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = both_bulk, .client = both_bulk});
}

static void six(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP6, .server = both_bulk, .client = both_bulk});
}

/* An IPv6 socket that speaks IPv4. */

static int connect_mapped(const struct address *to)
{
	struct address mapped = address_of("::ffff:" FAR_IP, ntohs(((const struct sockaddr_in *)&to->storage)->sin_port));
	int handle = any_socket(&mapped, SOCK_STREAM, IPPROTO_TCP);

	connect_to(handle, &mapped);
	return handle;
}

static void push_lot(int handle, struct flow *flow)
{
	push(handle, flow, LOT);
}

static void mapped(void)
{
	run_pair(&(struct pair){
		FAR, NEAR, FAR_IP, .server = just_pull, .client = push_lot, .connect = connect_mapped});
}

/* Every call that reads or writes, in turn, each with a size of its own. */

static ssize_t write_by(unsigned turn, int handle, size_t count)
{
	struct iovec parts[2] = {{payload(), 1}, {payload(), count - 1}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	switch (turn % 5) {
	case 0:
		return write(handle, payload(), count);
	case 1:
		return writev(handle, parts, 2);
	case 2:
		return send(handle, payload(), count, MSG_NOSIGNAL);
	case 3:
		return sendto(handle, payload(), count, MSG_NOSIGNAL, NULL, 0);
	default:
		return sendmsg(handle, &message, MSG_NOSIGNAL);
	}
}

static ssize_t read_by(unsigned turn, int handle, size_t count)
{
	struct iovec parts[2] = {{room(), 1}, {room(), count - 1}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	switch (turn % 6) {
	case 0:
		return read(handle, room(), count);
	case 1:
		return readv(handle, parts, 2);
	case 2:
		return recv(handle, room(), count, 0);
	case 3:
		return recvfrom(handle, room(), count, 0, NULL, NULL);
	case 4:
		return recvmsg(handle, &message, 0);
	default:
		return recv(handle, room(), count, MSG_WAITALL);
	}
}

static void write_calls(int handle, struct flow *flow)
{
	for (unsigned turn = 0; turn < 1009; turn++)
		CHECK(sent(flow, write_by(turn, handle, prime_from(2 + turn * 3))));
	half_close(handle);
}

static void read_calls(int handle, struct flow *flow)
{
	unsigned turn = 0;

	while (CHECK(received(flow, read_by(turn, handle, prime_from(2 + turn % 997)))) > 0)
		turn++;
}

static void read_then_write(int handle, struct flow *flow)
{
	read_calls(handle, flow);
	write_calls(handle, flow);
}

static void write_then_read(int handle, struct flow *flow)
{
	write_calls(handle, flow);
	read_calls(handle, flow);
}

static void calls(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = read_then_write, .client = write_then_read});
}

/* More is asked for than goes, and much goes not at all. */

static void push_partially(int handle, struct flow *flow)
{
	static char block[262139];
	struct pollfd wait = {handle, POLLOUT, 0};
	size_t left = LOT * 3;

	CHECK(fcntl(handle, F_SETFL, O_NONBLOCK));
	while (left > 0) {
		ssize_t went = sent(flow, send(handle, block, left < sizeof(block) ? left : sizeof(block), MSG_NOSIGNAL));

		if (went > 0) {
			left -= (size_t)went;
		} else {
			MUST(errno == EAGAIN);
			MUST(poll(&wait, 1, 20000) == 1);
		}
	}
}

static void pull_partially(int handle, struct flow *flow)
{
	struct pollfd wait = {handle, POLLIN, 0};
	ssize_t got;

	CHECK(fcntl(handle, F_SETFL, O_NONBLOCK));
	while ((got = received(flow, recv(handle, room(), 7919, 0))) != 0)
		if (got < 0) {
			MUST(errno == EAGAIN);
			MUST(poll(&wait, 1, 20000) == 1);
		}
}

static void small_buffer(int listener)
{
	int size = 8191;

	CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
}

static void partial(void)
{
	run_pair(&(struct pair){
		FAR, NEAR, FAR_IP, .server = pull_partially, .client = push_partially, .prepare = small_buffer});
}

static void push_slowly(int handle, struct flow *flow)
{
	for (int turn = 0; turn < SLOW_TIMES; turn++) {
		push(handle, flow, 1);
		sleep_ms(SLOW_MS);
	}
}

static void slow(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = just_pull, .client = push_slowly});
}

/* Looked at twice, then read: by as much as was seen. */

static void peek_and_pull(int handle, struct flow *flow)
{
	ssize_t seen;

	do {
		seen = CHECK(recv(handle, room(), 10007, MSG_PEEK));
		MUST(CHECK(recv(handle, room(), (size_t)seen, MSG_PEEK)) == seen);
		MUST(CHECK(received(flow, recv(handle, room(), (size_t)seen, 0))) == seen);
	} while (seen > 0);
}

static void peek(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = peek_and_pull, .client = push_lot});
}

/* Read when the kernel has closed the connection: both have said that they are done. */

static struct message over;

static void read_late(int handle, struct flow *flow)
{
	half_close(handle);
	hear(over);
	for (int turn = 0; turn < 2500; turn++) { /* TIME_WAIT: the socket itself is CLOSE by then */
		struct tcp_info info;
		socklen_t length = sizeof(info);

		CHECK(getsockopt(handle, IPPROTO_TCP, TCP_INFO, &info, &length));
		if (info.tcpi_state == TCP_CLOSE)
			break;
		MUST(turn < 2499);
		sleep_ms(2);
	}
	pull_all(handle, flow);
}

static void send_and_close(int handle, struct flow *flow)
{
	pull_all(handle, flow); /* its end: the other may not be the second to say so */
	push(handle, flow, 30011);
	half_close(handle);
	tell(over, 1);
}

static void late(void)
{
	over = new_message();
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = read_late, .client = send_and_close});
}

/* One end closes with unread bytes: a reset, after which the other's call fails. */

static void read_some(int handle, struct flow *flow)
{
	pull(handle, flow, 10007);
	MUST(recv(handle, room(), 1, MSG_PEEK) == 1);
}

static void send_until_reset(int handle, struct flow *flow)
{
	push(handle, flow, 20011);
	while (sent(flow, send(handle, payload(), 1009, MSG_NOSIGNAL)) >= 0)
		sleep_ms(5);
	MUST(errno == ECONNRESET || errno == EPIPE);
}

static void reset(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = read_some, .client = send_until_reset});
}

/* Many small connections, one after the other, each with sizes of its own. */

static struct message many_port;

static void serve_many(void)
{
	struct address address = address_of(FAR_IP, 0);
	int listener = any_socket(&address, SOCK_STREAM, IPPROTO_TCP);

	bind_to(listener, &address);
	CHECK(listen(listener, 127));
	tell(many_port, local_port(listener));
	for (unsigned turn = 0; turn < MANY; turn++) {
		int handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		struct flow *flow = flow_of(handle, "tcp", SYSCALL);

		pull_all(handle, flow);
		push(handle, flow, prime_from(1000 + turn * 11));
		close(handle);
	}
}

static void connect_many(void)
{
	struct address to = address_of(FAR_IP, (uint16_t)hear(many_port));

	for (unsigned turn = 0; turn < MANY; turn++) {
		int handle = any_socket(&to, SOCK_STREAM, IPPROTO_TCP);
		struct flow *flow;

		connect_to(handle, &to);
		flow = flow_of(handle, "tcp", SYSCALL);
		push(handle, flow, prime_from(100 + turn * 7));
		half_close(handle);
		pull_all(handle, flow);
		close(handle);
	}
}

static void many(void)
{
	many_port = new_message();
	begin(FAR, serve_many);
	begin(NEAR, connect_many);
	finish();
}

static void home(void)
{
	run_pair(&(struct pair){HOME, HOME, LOOPBACK, .server = both_bulk, .client = both_bulk});
}

static void near_loopback(void)
{
	run_pair(&(struct pair){NEAR, NEAR, "::1", .server = both_bulk, .client = both_bulk});
}

const struct row stream_rows[] = {
	{"tcp-up", "in bulk from near to far", up},
	{"tcp-down", "in bulk from far to near", down},
	{"tcp-both", "in bulk both ways at once, each by a thread", both},
	{"tcp-ipv6", "the same over IPv6", six},
	{"tcp-mapped", "an IPv6 socket that speaks IPv4", mapped},
	{"tcp-calls", "by each of the calls in turn", calls},
	{"tcp-partial", "less is sent than is asked for", partial},
	{"tcp-many", "503 short connections", many},
	{"tcp-slow", "one byte every 100 ms", slow},
	{"tcp-peek", "looked at twice with MSG_PEEK, then read", peek},
	{"tcp-late", "read after the kernel has closed the connection", late},
	{"tcp-reset", "closed with unread bytes", reset},
	{"loopback", "over the loopback of the tracer's own namespace", home},
	{"loopback-ipv6", "over the loopback of another namespace", near_loopback},
	{0},
};
