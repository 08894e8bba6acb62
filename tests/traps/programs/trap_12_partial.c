/* Trap 12: what is asked for is not what is sent. Writes that take a part, nothing, or fail; reads that give less. */
#include "flows.h"

#include <sys/uio.h>

#define LARGE (16u << 20) /* more than any send buffer grows to by itself */

static char large[LARGE];

/* A connection whose receiver begins to read only when the gate is opened. */
static pid_t late_sink(const char *label, struct gate begin, uint16_t *port)
{
	struct gate ready = new_gate();
	pid_t pid = spawn();

	if (pid == 0) {
		int listener = tcp_bound(LOOPBACK, 0), handle, small = 8192;
		struct moved moved = {0};
		struct ends ends;
		uint16_t own;

		CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
		tcp_listen(listener, LOOPBACK, 5);
		own = local_port(listener);
		MUST(write(ready.ends[1], &own, sizeof(own)) == sizeof(own));
		handle = tcp_accept(listener, label);
		ends = ends_of(handle);
		wait_gate(begin);
		drain(handle, &moved);
		say_flow(label, "tcp", &ends, &moved, "syscall", false);
		close(handle);
		_exit(0);
	}
	MUST(read(ready.ends[0], port, sizeof(*port)) == sizeof(*port));
	return pid;
}

static void asked(const char *label, uint64_t count, const struct moved *moved)
{
	MUST(moved->sent > 0 && moved->sent < count);
	say("{\"what\":\"asked\",\"label\":\"%s\",\"pid\":%d,\"count\":%" PRIu64 ",\"sent\":%" PRIu64 "}", label, getpid(),
	    count, moved->sent);
}

/* The buffer fills: one call takes a part, the next ones nothing. */
static void nonblocking(void)
{
	struct gate begin = new_gate();
	struct moved moved = {0};
	uint16_t port;
	pid_t sink = late_sink("nonblocking", begin, &port);
	int handle = tcp_connect(LOOPBACK, port, "nonblocking");

	MUST(count_sent(&moved, send(handle, large, LARGE, MSG_DONTWAIT)) < (ssize_t)LARGE);
	for (;;) {
		ssize_t more = send(handle, large, LARGE, MSG_DONTWAIT);

		if (more == -1)
			break;
		count_sent(&moved, more);
	}
	MUST(errno == EAGAIN);
	for (int turn = 0; turn < 3; turn++)
		if (send(handle, large, LARGE, MSG_DONTWAIT) != -1)
			die("a full buffer took more", __LINE__);
	asked("nonblocking", 5ull * LARGE, &moved);
	open_gate(begin);
	finish_with_sink(handle, sink, "nonblocking", &moved, "syscall");
}

/* A blocking write that gives up after a while has sent a part, by writev of several pieces. */
static void timeout(void)
{
	struct gate begin = new_gate();
	struct moved moved = {0};
	uint16_t port;
	pid_t sink = late_sink("timeout", begin, &port);
	int handle = tcp_connect(LOOPBACK, port, "timeout");
	struct timeval patience = {0, 200000};
	struct iovec parts[3] = {{large, 101}, {large, LARGE / 2}, {large, LARGE / 2}};

	CHECK(setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)));
	count_sent(&moved, writev(handle, parts, 3));
	asked("timeout", LARGE + 101, &moved);
	open_gate(begin);
	finish_with_sink(handle, sink, "timeout", &moved, "syscall");
}

static void on_alarm(int number)
{
	(void)number;
}

/* A signal interrupts a write that waits. */
static void interrupted(void)
{
	struct gate begin = new_gate();
	struct moved moved = {0};
	uint16_t port;
	pid_t sink = late_sink("interrupted", begin, &port), other, self = getpid();
	int handle = tcp_connect(LOOPBACK, port, "interrupted");
	struct sigaction action = {.sa_handler = on_alarm};

	CHECK(sigaction(SIGUSR1, &action, NULL));
	other = spawn();
	if (other == 0) {
		close(handle);
		for (int turn = 0; turn < 5; turn++) { /* the first may come before the write */
			sleep_ms(100);
			CHECK(kill(self, SIGUSR1));
		}
		_exit(0);
	}
	count_sent(&moved, write(handle, large, LARGE));
	asked("interrupted", LARGE, &moved);
	wait_success(other);
	open_gate(begin);
	finish_with_sink(handle, sink, "interrupted", &moved, "syscall");
}

/* Memory that is not there ends the write where it begins: the part before it is sent. */
static void fault(void)
{
	long page = sysconf(_SC_PAGESIZE);
	char *place = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct moved moved = {0};
	uint16_t port;
	pid_t sink = spawn_sink(LOOPBACK, "fault", 0, &port);
	int handle = tcp_connect(LOOPBACK, port, "fault");
	struct iovec parts[2] = {{large, 300007}, {place + page, 2003}}; /* more than the kernel copies at a time */

	MUST(place != MAP_FAILED);
	memset(place, 1, (size_t)page);
	CHECK(munmap(place + page, (size_t)page));
	MUST(write(handle, place + page, 101) == -1 && errno == EFAULT);
	count_sent(&moved, writev(handle, parts, 2));
	asked("fault", 300007 + 2003, &moved);
	finish_with_sink(handle, sink, "fault", &moved, "syscall");
}

/* Nobody reads any more: EPIPE, of whatever size. */
static void broken(void)
{
	struct moved moved = {0};
	uint16_t port;
	pid_t sink = spawn_sink(LOOPBACK, "broken", 0, &port);
	int handle = tcp_connect(LOOPBACK, port, "broken");
	struct ends ends = ends_of(handle);

	MUST(count_sent(&moved, send(handle, large, 503, 0)) == 503);
	CHECK(shutdown(handle, SHUT_WR));
	for (int turn = 0; turn < 3; turn++)
		MUST(send(handle, large, LARGE, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	drain(handle, &moved);
	say_flow("broken", "tcp", &ends, &moved, "syscall", true);
	close(handle);
	wait_success(sink);
}

int main(void)
{
	start_truth();
	own_netns();
	nonblocking();
	timeout();
	interrupted();
	fault();
	broken();
	return 0;
}
