/* Trap 13: bytes that move by other calls than send and receive: sendfile, splice out of a pipe and into one, sendmmsg and
 * recvmmsg, MSG_ZEROCOPY, and TCP_ZEROCOPY_RECEIVE. */
#include "flows.h"

#include <linux/errqueue.h>
#include <stddef.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

#define PIPE_SIZE 65536

static char block[1 << 20];

static int file_of(size_t size)
{
	int file = CHECK(memfd_create("bytes", MFD_CLOEXEC));

	CHECK(ftruncate(file, (off_t)size));
	return file;
}

static int connect_sink(const char *ip, const char *label, size_t answer, pid_t *sink)
{
	uint16_t port;

	*sink = spawn_sink(ip, label, answer, &port);
	return tcp_connect(ip, port, label);
}

static void by_sendfile(const char *ip)
{
	struct moved moved = {0};
	pid_t sink;
	int handle = connect_sink(ip, "sendfile", 0, &sink), file = file_of(1000003);
	off_t at = 11; /* not at the beginning, and asked for more than there is */

	while (count_sent(&moved, sendfile(handle, file, &at, 2000000)) > 0)
		;
	MUST(moved.sent == 1000003 - 11);
	close(file);
	finish_with_sink(handle, sink, "sendfile", &moved, "sendfile");
}

static void splice_out(void)
{
	struct moved moved = {0};
	pid_t sink;
	int handle = connect_sink(LOOPBACK, "splice-out", 0, &sink), ends[2];

	CHECK(pipe2(ends, O_CLOEXEC));
	for (size_t part = 101; part < PIPE_SIZE; part = part * 3 + 1) {
		size_t rest = part;

		MUST(write(ends[1], block, part) == (ssize_t)part);
		while (rest > 0)
			rest -= (size_t)count_sent(&moved, splice(ends[0], NULL, handle, NULL, rest, SPLICE_F_MOVE));
	}
	close(ends[0]);
	close(ends[1]);
	finish_with_sink(handle, sink, "splice-out", &moved, "splice");
}

/* What a sink answers goes into a pipe; it answers when all has come, so this end sends first. */
static void splice_in(void)
{
	struct moved moved = {0};
	pid_t sink;
	int handle = connect_sink("::1", "splice-in", 300007, &sink), ends[2];
	struct ends tuple = ends_of(handle);
	ssize_t count;

	CHECK(pipe2(ends, O_CLOEXEC));
	CHECK(shutdown(handle, SHUT_WR));
	while ((count = count_received(&moved, splice(handle, NULL, ends[1], NULL, PIPE_SIZE, 0))) > 0)
		while (count > 0)
			count -= CHECK(read(ends[0], block, (size_t)count));
	MUST(moved.received == 300007);
	say_flow("splice-in", "tcp", &tuple, &moved, "splice", true);
	close(handle);
	wait_success(sink);
}

/* 13 datagrams by one call, taken by two calls into buffers of which one is too short. */
static void many(void)
{
	int from = udp_bound(LOOPBACK, 0), to = udp_bound(LOOPBACK, 0);
	struct ends near, far = {.local = local_address(to), .remote = local_address(from)};
	struct moved sent = {0}, received = {0};
	struct mmsghdr messages[16];
	struct address from_whom[16];
	struct iovec parts[16];
	int done = 0;

	connect_to(from, LOOPBACK, local_port(to));
	near = ends_of(from);
	memset(messages, 0, sizeof(messages));
	for (int number = 0; number < 13; number++) {
		parts[number] = (struct iovec){block, 501 + 100 * (size_t)number};
		messages[number].msg_hdr = (struct msghdr){.msg_iov = &parts[number], .msg_iovlen = 1};
	}
	MUST(CHECK(sendmmsg(from, messages, 13, 0)) == 13);
	for (int number = 0; number < 13; number++)
		count_sent(&sent, messages[number].msg_len);
	MUST(sent.sent == 13 * 501 + 100 * 78);
	while (done < 13) {
		int got;

		for (int number = 0; number < 16; number++) {
			parts[number] = (struct iovec){block, number == 3 ? 100 : 4096};
			messages[number].msg_hdr = (struct msghdr){.msg_name = &from_whom[number].storage,
								   .msg_namelen = sizeof(from_whom[number].storage),
								   .msg_iov = &parts[number],
								   .msg_iovlen = 1};
		}
		got = CHECK(recvmmsg(to, messages, done ? 16 : 7, MSG_WAITFORONE, NULL));
		for (int number = 0; number < got; number++)
			count_received(&received, messages[number].msg_len);
		done += got;
	}
	MUST(done == 13 && received.received < sent.sent);
	say_flow("mmsg", "udp", &near, &sent, "syscall", true);
	say_flow("mmsg", "udp", &far, &received, "syscall", false);
	close(from);
	close(to);
}

/* The kernel sends the process's own pages, and says in the error queue when it is done with them. */
static void zerocopy(void)
{
	struct moved moved = {0};
	pid_t sink;
	int handle = connect_sink(LOOPBACK, "zerocopy", 0, &sink), yes = 1, calls = 0, told = 0;

	if (setsockopt(handle, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes)) == -1) {
		missing("MSG_ZEROCOPY");
	} else {
		for (; calls < 7; calls++)
			count_sent(&moved, send(handle, block, 100003, MSG_ZEROCOPY));
		while (told < calls) {
			char control[256];
			struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};
			struct pollfd waiting = {handle, 0, 0};
			struct sock_extended_err *error;

			MUST(CHECK(poll(&waiting, 1, 10000)) == 1);
			CHECK(recvmsg(handle, &message, MSG_ERRQUEUE));
			error = (void *)CMSG_DATA(CMSG_FIRSTHDR(&message));
			MUST(error->ee_origin == SO_EE_ORIGIN_ZEROCOPY);
			told += (int)(error->ee_data - error->ee_info + 1);
		}
	}
	finish_with_sink(handle, sink, "zerocopy", &moved, "syscall");
}

/* struct tcp_zerocopy_receive of linux/tcp.h, of which older headers of libc have but the beginning. */
struct zerocopy_receive {
	uint64_t address;
	uint32_t length, recv_skip_hint, inq;
	int32_t err;
	uint64_t copybuf_address;
	int32_t copybuf_len;
	uint32_t flags;
};

/* Bytes that come by a getsockopt: what is too little to map is copied (5.11). */
static void zerocopy_receive(void)
{
	struct moved moved = {0};
	pid_t sink;
	int handle = connect_sink(LOOPBACK, "zerocopy-receive", 3001, &sink);
	struct ends tuple = ends_of(handle);
	void *place = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, handle, 0);
	uint64_t by_option = 0;
	bool able = place != MAP_FAILED;

	CHECK(shutdown(handle, SHUT_WR));
	for (;;) {
		struct zerocopy_receive ask = {
			.address = (uintptr_t)place, .copybuf_address = (uintptr_t)block, .copybuf_len = 4096};
		socklen_t length = sizeof(ask);

		wait_readable(handle);
		if (!able || getsockopt(handle, IPPROTO_TCP, 35 /* TCP_ZEROCOPY_RECEIVE */, &ask, &length) == -1 ||
		    length < offsetof(struct zerocopy_receive, flags) || ask.copybuf_len <= 0)
			break; /* an older kernel fills in, and answers, but the beginning */
		moved.received += (uint64_t)ask.copybuf_len + ask.length;
		by_option += (uint64_t)ask.copybuf_len + ask.length;
	}
	if (by_option == 0)
		missing("TCP_ZEROCOPY_RECEIVE");
	drain(handle, &moved);
	MUST(moved.received == 3001);
	say("{\"what\":\"by-option\",\"pid\":%d,\"count\":%" PRIu64 "}", getpid(), by_option);
	say_flow("zerocopy-receive", "tcp", &tuple, &moved, "syscall", true);
	close(handle);
	wait_success(sink);
}

int main(void)
{
	start_truth();
	own_netns();
	by_sendfile(LOOPBACK);
	by_sendfile("::1");
	splice_out();
	splice_in();
	many();
	zerocopy();
	zerocopy_receive();
	return 0;
}
