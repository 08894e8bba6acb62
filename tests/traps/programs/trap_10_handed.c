/* Trap 10: one socket, one process after the other: handed over by SCM_RIGHTS, inherited by a fork, fetched by
 * pidfd_getfd. Each moves bytes of its own; the connection stays the same. */
#include "flows.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static char block[65536];

static void hand_over(int channel, int handle)
{
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec part = {"h", 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &handle, sizeof(handle));
	MUST(CHECK(sendmsg(channel, &message, 0)) == 1);
}

static int take_over(int channel)
{
	char control[CMSG_SPACE(sizeof(int))] = {0}, letter;
	struct iovec part = {&letter, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int handle;

	MUST(CHECK(recvmsg(channel, &message, MSG_CMSG_CLOEXEC)) == 1);
	MUST(CMSG_FIRSTHDR(&message) != NULL);
	memcpy(&handle, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(handle));
	return handle;
}

/* The next who moves bytes on the flow is not who did before. */
static void say_owner(const char *label, pid_t from, pid_t to)
{
	say("{\"what\":\"owner\",\"label\":\"%s\",\"from\":%d,\"to\":%d,\"after_ns\":%" PRIu64 "}", label, from, to,
	    boot_ns());
}

static void send_some(int handle, size_t count, struct moved *moved)
{
	MUST(count_sent(moved, send(handle, block, count, MSG_NOSIGNAL)) == (ssize_t)count);
}

/* The last owner: ends the connection, takes the answer. */
static void finish(const char *label, int handle, struct moved *moved)
{
	struct ends ends = ends_of(handle);

	CHECK(shutdown(handle, SHUT_WR));
	drain(handle, moved);
	say_flow(label, "tcp", &ends, moved, "syscall", true);
	close(handle);
}

static void passed(void)
{
	uint16_t port;
	pid_t sink = spawn_sink(LOOPBACK, "passed", 401, &port), heir, parent = getpid();
	struct moved moved = {0};
	struct ends ends;
	int channel[2], handle;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel));
	heir = spawn();
	if (heir == 0) { /* knew nothing of the connection when it came to be */
		handle = take_over(channel[1]);
		send_some(handle, 2003, &moved);
		say_owner("passed", parent, getpid());
		finish("passed", handle, &moved);
		_exit(0);
	}
	handle = tcp_connect(LOOPBACK, port, "passed");
	ends = ends_of(handle);
	send_some(handle, 1009, &moved);
	hand_over(channel[0], handle);
	close(handle);
	say_flow("passed", "tcp", &ends, &moved, "syscall", true);
	wait_success(heir);
	wait_success(sink);
}

/* The child sends, then the parent goes on. */
static void inherited(void)
{
	uint16_t port;
	pid_t sink = spawn_sink("::1", "inherited", 409, &port), child;
	int handle = tcp_connect("::1", port, "inherited");
	struct moved moved = {0};
	struct ends ends = ends_of(handle);

	send_some(handle, 307, &moved);
	child = spawn();
	if (child == 0) {
		struct moved own = {0};

		send_some(handle, 503, &own);
		say_owner("inherited", getppid(), getpid());
		say_flow("inherited", "tcp", &ends, &own, "syscall", true);
		_exit(0); /* closes its copy: the connection goes on */
	}
	wait_success(child);
	send_some(handle, 101, &moved);
	finish("inherited", handle, &moved);
	wait_success(sink);
}

static void fetched(void)
{
	uint16_t port;
	pid_t sink = spawn_sink(LOOPBACK, "fetched", 419, &port), thief, parent = getpid();
	struct gate begin = new_gate(), done = new_gate();
	struct moved moved = {0};
	struct ends ends;
	int handle, where[2];

	CHECK(pipe2(where, O_CLOEXEC));
	thief = spawn();
	if (thief == 0) {
		int pid_handle = (int)CHECK(syscall(SYS_pidfd_open, parent, 0)), number;

		wait_gate(begin);
		MUST(read(where[0], &number, sizeof(number)) == sizeof(number));
		handle = (int)syscall(SYS_pidfd_getfd, pid_handle, number, 0);
		if (handle == -1) {
			MUST(errno == ENOSYS || errno == EPERM); /* before 5.6, or by Yama */
			missing("pidfd_getfd");
			open_gate(done);
			_exit(0);
		}
		send_some(handle, 701, &moved);
		say_owner("fetched", parent, getpid());
		ends = ends_of(handle);
		say_flow("fetched", "tcp", &ends, &moved, "syscall", true);
		open_gate(done);
		_exit(0);
	}
	handle = tcp_connect(LOOPBACK, port, "fetched");
	send_some(handle, 601, &moved);
	MUST(write(where[1], &handle, sizeof(handle)) == sizeof(handle));
	open_gate(begin);
	wait_gate(done);
	wait_success(thief);
	finish("fetched", handle, &moved);
	wait_success(sink);
}

/* Who accepts gives each connection to who works. */
static void accepted(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), channel[2], handle;
	uint16_t port = local_port(listener);
	struct moved moved = {0};
	struct gate done = new_gate();
	pid_t acceptor, worker;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel));
	acceptor = spawn();
	if (acceptor == 0) {
		handle = tcp_accept(listener, "accepted");
		hand_over(channel[0], handle);
		close(handle);
		wait_gate(done); /* lives on until the worker is done */
		_exit(0);
	}
	worker = spawn();
	if (worker == 0) {
		struct ends ends;

		handle = take_over(channel[1]);
		ends = ends_of(handle);
		drain(handle, &moved);
		send_some(handle, 1301, &moved);
		say_owner("accepted", acceptor, getpid());
		say_flow("accepted", "tcp", &ends, &moved, "syscall", false);
		close(handle);
		_exit(0);
	}
	close(listener);
	handle = tcp_connect(LOOPBACK, port, "accepted");
	send_some(handle, 30011, &moved);
	finish("accepted", handle, &moved);
	wait_success(worker);
	open_gate(done);
	wait_success(acceptor);
}

/* A datagram socket, without a peer, handed over between two sends to the same place. */
static void datagrams(void)
{
	int from = udp_bound(LOOPBACK, 0), to = udp_bound(LOOPBACK, 0);
	struct ends ends = {local_address(from), local_address(to)}, back = {ends.remote, ends.local};
	struct moved moved = {0}, received = {0};
	pid_t child;

	for (int number = 0; number < 5; number++)
		send_to(from, &ends.remote, 211, &moved);
	child = spawn();
	if (child == 0) {
		struct moved own = {0};

		for (int number = 0; number < 7; number++)
			send_to(from, &ends.remote, 223, &own);
		say_flow("datagrams", "udp", &ends, &own, "syscall", true);
		_exit(0);
	}
	wait_success(child);
	for (int number = 0; number < 12; number++)
		take_datagram(to, &received);
	say_flow("datagrams", "udp", &ends, &moved, "syscall", true);
	say_flow("datagrams", "udp", &back, &received, "syscall", false);
	close(from);
	close(to);
}

int main(void)
{
	start_truth();
	own_netns();
	passed();
	inherited();
	fetched();
	accepted();
	datagrams();
	return 0;
}
