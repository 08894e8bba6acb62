/* Trap 41: the function that all accepts end in changed its signature (inet_csk_accept, in 6.10), and a wrong argument
 * read gives a socket all the same. 101 connections are accepted by accept and accept4, before and after the client came,
 * over IPv4, IPv6 and IPv4 in IPv6, by two processes; accepts that fail accept nothing; io_uring accepts a few more. */
#include "trap.h"

#include <linux/io_uring.h>
#include <sys/mman.h>

#define ACCEPTS 101
#define RING_ACCEPTS 7
#define KINDS 3

/* Where to connect, and where that arrives. */
static const char *const to[KINDS] = {"127.0.0.1", "::1", "127.0.0.1"};
static const char *const at[KINDS] = {"127.0.0.1", "::1", "::"};

static int accept_by(int listener, int number)
{
	if (number % 2)
		return (int)syscall(SYS_accept, listener, NULL, NULL);
	return (int)syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC);
}

/* Connects to one after the other; every other one says when it is there, the others are waited for in accept. */
static void client(const uint16_t *ports, int first, struct gate begin, struct gate there)
{
	for (int number = first; number < ACCEPTS; number += 2) {
		int handle;

		wait_gate(begin);
		if (number / 2 % 2)
			sleep_ms(2); /* most often the other process waits in accept by then */
		handle = tcp_connect(to[number % KINDS], ports[number % KINDS], "accepted");
		if (number / 2 % 2 == 0)
			open_gate(there);
		send_exactly(handle, (size_t)number + 1);
		close(handle);
	}
	_exit(0);
}

/* Accepts every other connection, from the first on. */
static void acceptor(int first)
{
	struct gate begin = new_gate(), there = new_gate();
	int listeners[KINDS], empty = tcp_listener("127.0.0.2", 0, 5), none = tcp_socket("127.0.0.2", SOCK_CLOEXEC);
	uint16_t ports[KINDS];
	pid_t connecting;

	for (int kind = 0; kind < KINDS; kind++) {
		listeners[kind] = tcp_listener(at[kind], 0, 5);
		ports[kind] = local_port(listeners[kind]);
	}
	CHECK(fcntl(empty, F_SETFL, O_NONBLOCK));
	connecting = spawn();
	if (connecting == 0)
		client(ports, first, begin, there);
	for (int number = first; number < ACCEPTS; number += 2) {
		int handle;

		MUST(accept_by(empty, number) == -1 && errno == EAGAIN);
		MUST(accept_by(none, number) == -1 && errno == EINVAL);
		open_gate(begin);
		if (number / 2 % 2 == 0)
			wait_gate(there);
		handle = CHECK(accept_by(listeners[number % KINDS], number));
		say_socket("accept", handle, "\"label\":\"%s\",\"number\":%d,\"after_ns\":%" PRIu64,
			   number % 2 ? "accept" : "accept4", number, boot_ns());
		MUST(receive_all(handle) == (size_t)number + 1);
		close(handle);
	}
	wait_success(connecting);
	_exit(0);
}

/* One accept by io_uring: put into the ring, and its result taken from there. */
static int accept_by_ring(int ring, const struct io_uring_params *layout, char *queues, struct io_uring_sqe *entries,
			  int listener)
{
	unsigned *tail = (void *)(queues + layout->sq_off.tail), *array = (void *)(queues + layout->sq_off.array);
	unsigned *head = (void *)(queues + layout->cq_off.head), mask = *(unsigned *)(queues + layout->sq_off.ring_mask);
	struct io_uring_cqe *done = (void *)(queues + layout->cq_off.cqes);
	unsigned at_tail = *tail, at_head = *head;

	memset(&entries[at_tail & mask], 0, sizeof(*entries));
	entries[at_tail & mask].opcode = IORING_OP_ACCEPT;
	entries[at_tail & mask].fd = listener;
	array[at_tail & mask] = at_tail & mask;
	__atomic_store_n(tail, at_tail + 1, __ATOMIC_RELEASE);
	MUST(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	MUST(__atomic_load_n((unsigned *)(queues + layout->cq_off.tail), __ATOMIC_ACQUIRE) == at_head + 1);
	done += at_head & *(unsigned *)(queues + layout->cq_off.ring_mask);
	at_head++;
	__atomic_store_n(head, at_head, __ATOMIC_RELEASE);
	return done->res;
}

static void by_ring(void)
{
	struct io_uring_params layout = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &layout), listener = tcp_bound(LOOPBACK, 0);
	struct address there = address_of(LOOPBACK, local_port(listener));
	struct io_uring_sqe *entries;
	char *queues;
	size_t size;

	if (ring == -1 || !(layout.features & IORING_FEAT_SINGLE_MMAP)) {
		missing("io_uring"); /* not built, switched off (kernel.io_uring_disabled), or older than 5.4 */
		return;
	}
	size = layout.cq_off.cqes + layout.cq_entries * sizeof(struct io_uring_cqe);
	if (size < layout.sq_off.array + layout.sq_entries * sizeof(unsigned))
		size = layout.sq_off.array + layout.sq_entries * sizeof(unsigned);
	queues = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	MUST(queues != MAP_FAILED);
	entries = mmap(NULL, layout.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		       IORING_OFF_SQES);
	MUST(entries != MAP_FAILED);
	CHECK(listen(listener, 5));
	for (int number = 0; number < RING_ACCEPTS; number++) {
		int from = tcp_socket(LOOPBACK, SOCK_CLOEXEC), handle;

		CHECK(connect(from, (struct sockaddr *)&there.storage, there.length));
		handle = accept_by_ring(ring, &layout, queues, entries, listener);
		if (handle == -EINVAL && number == 0) {
			missing("io_uring accept"); /* before 5.5 */
			return;
		}
		MUST(handle >= 0);
		say_socket("ring-accept", handle, "\"number\":%d,\"after_ns\":%" PRIu64, number, boot_ns());
		close(from);
		MUST(receive_all(handle) == 0);
		close(handle);
	}
}

int main(void)
{
	pid_t both[2], ring;

	start_truth();
	own_netns(); /* where IPv6 has a loopback address whatever the machine's settings are */
	for (int first = 0; first < 2; first++) {
		both[first] = spawn();
		if (both[first] == 0)
			acceptor(first);
	}
	wait_success(both[0]);
	wait_success(both[1]);
	ring = spawn();
	if (ring == 0) {
		by_ring();
		_exit(0);
	}
	wait_success(ring);
	return 0;
}
