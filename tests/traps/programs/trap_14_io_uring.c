/* Trap 14: io_uring. Connects, accepts, sends and receives without the system calls of those names: done in the call that
 * hands them over, by a worker thread, or by a thread of the kernel that nobody calls. Both ends are processes with a
 * ring of their own; so are a sender and a receiver of datagrams. */
#include "flows.h"
#include "uring.h"

#define STREAM 70001
#define ANSWER 9001
#define MOST 4096

struct mode {
	const char *label;
	unsigned setup;
	unsigned char entry;
};

static const struct mode modes[] = {
	{"inline", 0, 0}, {"worker", 0, IOSQE_ASYNC}, {"sqpoll", IORING_SETUP_SQPOLL, 0}};

static char block[STREAM];

static void open_ring(struct ring *ring, const struct mode *mode)
{
	MUST(ring_open(ring, mode->setup)); /* it did once before */
	ring->entry_flags = mode->entry;
}

static void send_by_ring(struct ring *ring, int handle, size_t count, struct moved *moved)
{
	for (size_t at = 0; at < count;) {
		size_t rest = count - at;
		int sent = ring_send(ring, handle, block, rest < MOST ? rest : MOST);

		errno = -sent;
		MUST(sent > 0);
		at += (size_t)count_sent(moved, sent);
	}
}

static void receive_by_ring(struct ring *ring, int handle, size_t count, struct moved *moved)
{
	while (moved->received < count) {
		int got = ring_receive(ring, handle, block, MOST);

		errno = -got;
		MUST(got > 0);
		count_received(moved, got);
	}
}

static void server(const struct mode *mode, int listener)
{
	struct ring ring;
	struct moved moved = {0};
	struct ends ends;
	const char *how = mode->label;
	int handle;

	open_ring(&ring, mode);
	handle = ring_accept(&ring, listener);
	if (handle == -EINVAL && ring.polled) { /* refused with SQPOLL before 5.10 */
		missing("io_uring accept with SQPOLL");
		handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		how = "accept4";
	}
	errno = -handle;
	MUST(handle >= 0);
	ends = ends_of(handle);
	say_socket("accept", handle, "\"label\":\"%s\",\"after_ns\":%" PRIu64, how, boot_ns());
	receive_by_ring(&ring, handle, STREAM, &moved);
	send_by_ring(&ring, handle, ANSWER, &moved);
	say_flow(mode->label, "tcp", &ends, &moved, "io_uring", false);
	MUST(ring_receive(&ring, handle, block, MOST) == 0);
	close(handle);
	_exit(0);
}

static void stream(const struct mode *mode, const char *ip)
{
	int listener = tcp_listener(ip, 0, 5), handle, result;
	struct address there = local_address(listener);
	struct moved moved = {0};
	struct ring ring;
	struct ends ends;
	uint64_t before;
	pid_t pid = spawn();

	if (pid == 0)
		server(mode, listener);
	open_ring(&ring, mode);
	handle = tcp_socket(ip, SOCK_CLOEXEC);
	before = boot_ns();
	result = ring_connect(&ring, handle, &there);
	errno = -result;
	MUST(result == 0);
	ends = ends_of(handle);
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   mode->label, before, boot_ns());
	send_by_ring(&ring, handle, STREAM, &moved);
	receive_by_ring(&ring, handle, ANSWER, &moved);
	say_flow(mode->label, "tcp", &ends, &moved, "io_uring", true);
	close(handle);
	wait_success(pid);
	close(ring.handle);
	close(listener);
}

/* Nobody listens. */
static void refused(const struct mode *mode)
{
	int holder = tcp_bound(LOOPBACK, 0), handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
	struct address there = local_address(holder);
	struct ring ring;
	uint64_t before, after;

	open_ring(&ring, mode);
	before = boot_ns();
	MUST(ring_connect(&ring, handle, &there) == -ECONNREFUSED);
	after = boot_ns();
	say("{\"what\":\"connect\",\"label\":\"%s\",\"pid\":%d,\"tid\":%d,\"local_port\":%u,\"remote_ip\":\"%s\""
	    ",\"remote_port\":%u,\"netns\":%" PRIu64 ",\"errno\":%d,\"result\":%d,\"before_ns\":%" PRIu64
	    ",\"after_ns\":%" PRIu64 ",\"done_ns\":%" PRIu64 "}",
	    mode->label, getpid(), own_tid(), local_port(handle), LOOPBACK, local_port(holder), namespace_inode("net"),
	    ECONNREFUSED, ECONNREFUSED, before, after, after);
	close(handle);
	close(ring.handle);
	close(holder);
}

/* The receiver waits for its first datagram before there is one. */
static void receiver(const struct mode *mode, int handle, const struct address *from, int count)
{
	struct ends ends = {.local = local_address(handle), .remote = *from};
	struct moved moved = {0};
	struct ring ring;

	open_ring(&ring, mode);
	/* One of the two calls asks for no address: by this the kernel knows it. */
	CHECK(connect(handle, (const struct sockaddr *)&from->storage, from->length));
	for (int number = 0; number < count; number++) {
		struct address peer = {.length = sizeof(peer.storage)};
		struct iovec part = {block, MOST};
		struct msghdr message = {.msg_name = &peer.storage,
					 .msg_namelen = peer.length,
					 .msg_iov = &part,
					 .msg_iovlen = 1};
		int got = number % 2 ? ring_message(&ring, IORING_OP_RECVMSG, handle, &message)
				     : ring_receive(&ring, handle, block, MOST);

		errno = -got;
		MUST(got > 0);
		count_received(&moved, got);
	}
	say_flow(mode->label, "udp", &ends, &moved, "io_uring", false);
	_exit(0);
}

/* Datagrams from a socket without a peer, by SENDMSG. */
static void datagrams(const struct mode *mode)
{
	int from = udp_bound(LOOPBACK, 0), to = udp_bound(LOOPBACK, 0);
	struct ends ends = {.local = local_address(from), .remote = local_address(to)};
	struct moved moved = {0};
	struct ring ring;
	pid_t pid = spawn();

	if (pid == 0)
		receiver(mode, to, &ends.local, 7);
	open_ring(&ring, mode);
	sleep_ms(20);
	for (int number = 0; number < 7; number++) {
		struct iovec part = {block, 1009 + (size_t)number};
		struct msghdr message = {.msg_name = &ends.remote.storage,
					 .msg_namelen = ends.remote.length,
					 .msg_iov = &part,
					 .msg_iovlen = 1};
		int sent = ring_message(&ring, IORING_OP_SENDMSG, from, &message);

		errno = -sent;
		count_sent(&moved, sent);
		MUST(sent == 1009 + number);
	}
	say_flow(mode->label, "udp", &ends, &moved, "io_uring", true);
	wait_success(pid);
	close(ring.handle);
	close(from);
	close(to);
}

int main(void)
{
	start_truth();
	own_netns();
	for (unsigned index = 0; index < sizeof(modes) / sizeof(*modes); index++) {
		const struct mode *mode = &modes[index];
		struct ring ring;

		if (!ring_open(&ring, mode->setup)) {
			say("{\"what\":\"missing\",\"facility\":\"io_uring %s\",\"errno\":%d}", mode->label, errno);
			continue;
		}
		close(ring.handle);
		stream(mode, LOOPBACK);
		stream(mode, "::1");
		refused(mode);
		datagrams(mode);
	}
	return 0;
}
