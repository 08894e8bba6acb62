/* Trap 11: bytes that are looked at and stay (MSG_PEEK), and what comes out of an error queue (MSG_ERRQUEUE): neither is
 * received. Bytes that are thrown away unread (MSG_TRUNC of a stream) are. */
#include "flows.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>

#define SIZE 1201

static char block[8192];

/* A stream, peeked at thrice before it is read: a part, all of it, by another process. */
static void stream(const char *ip)
{
	int listener = tcp_listener(ip, 0, 5), handle, accepted, yes = 1;
	struct moved client = {0}, server = {0};
	struct ends near, far;
	pid_t other;

	handle = tcp_connect(ip, local_port(listener), "stream");
	CHECK(setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
	accepted = tcp_accept(listener, "stream");
	near = ends_of(handle);
	far = ends_of(accepted);
	MUST(count_sent(&client, send(handle, block, SIZE, 0)) == SIZE);
	wait_readable(accepted);
	MUST(recv(accepted, block, 100, MSG_PEEK) == 100);
	MUST(recv(accepted, block, sizeof(block), MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT) == SIZE);
	other = spawn();
	if (other == 0) {
		struct iovec part = {block, sizeof(block)};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

		MUST(recvmsg(accepted, &message, MSG_PEEK) == SIZE);
		say("{\"what\":\"peeker\",\"pid\":%d}", getpid());
		_exit(0);
	}
	wait_success(other);
	MUST(count_received(&server, recv(accepted, block, 1000, 0)) == 1000);
	MUST(recv(accepted, block, sizeof(block), MSG_PEEK) == SIZE - 1000);
	MUST(count_received(&server, recv(accepted, NULL, 101, MSG_TRUNC)) == 101);
	close(handle);
	drain(accepted, &server);
	MUST(server.received == SIZE);
	say_flow("stream", "tcp", &near, &client, "syscall", true);
	say_flow("stream", "tcp", &far, &server, "syscall", false);
	close(accepted);
	close(listener);
}

/* Datagrams that are looked at once or twice each; some never are, and none of those that stay is received. */
static void datagrams(void)
{
	int from = udp_bound(LOOPBACK, 0), to = udp_bound(LOOPBACK, 0);
	struct moved sent = {0}, received = {0};
	struct ends near, far = {.local = local_address(to), .remote = local_address(from)};

	connect_to(from, LOOPBACK, local_port(to));
	near = ends_of(from);
	for (int number = 0; number < 9; number++)
		count_sent(&sent, send(from, block, 200 + (size_t)number, 0));
	for (int number = 0; number < 5; number++) {
		for (int turn = 0; turn <= number % 3; turn++)
			MUST(recv(to, block, sizeof(block), MSG_PEEK) == 200 + number);
		MUST(take_datagram(to, &received) == 200 + number);
	}
	MUST(recv(to, block, sizeof(block), MSG_PEEK) == 205);
	say_flow("datagrams", "udp", &near, &sent, "syscall", true);
	say_flow("datagrams", "udp", &far, &received, "syscall", false);
	close(from);
	close(to);
}

/* Everything that this process sent comes back to it with the time of its sending. */
static void timestamps(void)
{
	int from = udp_bound(LOOPBACK, 0), to = udp_bound(LOOPBACK, 0),
	    flags = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	struct moved sent = {0}, received = {0};
	struct ends near, far = {.local = local_address(to), .remote = local_address(from)};
	char control[512];
	uint64_t looked = 0;

	connect_to(from, LOOPBACK, local_port(to));
	near = ends_of(from);
	CHECK(setsockopt(from, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)));
	for (int number = 0; number < 7; number++)
		count_sent(&sent, send(from, block, 300 + (size_t)number, 0));
	for (int number = 0; number < 7; number++) {
		struct iovec part = {block, sizeof(block)};
		struct msghdr message = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
		struct pollfd waiting = {from, 0, 0};

		MUST(CHECK(poll(&waiting, 1, 10000)) == 1); /* POLLERR, which needs not be asked for */
		looked += (uint64_t)CHECK(recvmsg(from, &message, MSG_ERRQUEUE));
	}
	MUST(looked > sent.sent); /* whole packets, with their headers */
	for (int number = 0; number < 7; number++)
		take_datagram(to, &received);
	say_flow("timestamps", "udp", &near, &sent, "syscall", true);
	say_flow("timestamps", "udp", &far, &received, "syscall", false);
	close(from);
	close(to);
}

/* Nobody is there: the datagram comes back from the error queue, with the error. */
static void refused(void)
{
	int holder = udp_bound(LOOPBACK, 0), from = udp_bound(LOOPBACK, 0), yes = 1;
	struct moved sent = {0};
	struct ends near;
	char control[512];
	struct iovec part = {block, sizeof(block)};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	uint16_t port = local_port(holder);

	close(holder); /* in a namespace of its own nobody else takes the port */
	connect_to(from, LOOPBACK, port);
	near = ends_of(from);
	CHECK(setsockopt(from, IPPROTO_IP, IP_RECVERR, &yes, sizeof(yes)));
	MUST(count_sent(&sent, send(from, block, 409, 0)) == 409);
	MUST(CHECK(recvmsg(from, &message, MSG_ERRQUEUE)) == 409);
	MUST(recv(from, block, sizeof(block), MSG_DONTWAIT) == -1 && (errno == ECONNREFUSED || errno == EAGAIN));
	say_flow("refused", "udp", &near, &sent, "syscall", true);
	close(from);
}

int main(void)
{
	start_truth();
	own_netns();
	stream(LOOPBACK);
	stream("::1");
	datagrams();
	timestamps();
	refused();
	return 0;
}
