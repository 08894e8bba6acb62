/* Trap 6: TCP Fast Open. The bytes go with the SYN: by a send without any connect, or by a connect that does nothing and
 * leaves it to the first write. */
#include "flows.h"

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif

/* The server takes and the client sends data in the SYN, cookie or not (TFO_CLIENT_ENABLE, TFO_SERVER_ENABLE,
 * TFO_CLIENT_NO_COOKIE, TFO_SERVER_COOKIE_NOT_REQD). */
#define ALL_OF_IT "519"
#define ANSWER 211

enum how { SENDTO, SENDMSG, DEFERRED, NONBLOCKING };

static const char *const labels[] = {"sendto", "sendmsg", "deferred", "nonblocking"};
static const char *const addresses[] = {LOOPBACK, "::1"};

static void server(int listener, const char *label)
{
	struct moved moved = {0};
	int handle = tcp_accept(listener, label);
	struct ends ends = ends_of(handle);
	static const char zeros[ANSWER];

	drain(handle, &moved);
	MUST(count_sent(&moved, send(handle, zeros, ANSWER, 0)) == ANSWER);
	say_flow(label, "tcp", &ends, &moved, "syscall", false);
	close(handle);
	_exit(0);
}

static void one(const char *ip, enum how how, size_t first, size_t second)
{
	int queue = 5, yes = 1, listener = tcp_bound(ip, 0), handle = tcp_socket(ip, SOCK_CLOEXEC);
	static char data[4096];
	struct iovec part = {data, first};
	struct moved moved = {0};
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);
	struct address there;
	struct ends ends;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	uint64_t before;
	pid_t pid;

	CHECK(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof(queue)));
	tcp_listen(listener, ip, 5);
	there = local_address(listener);
	message.msg_name = &there.storage;
	message.msg_namelen = there.length;
	pid = spawn();
	if (pid == 0)
		server(listener, labels[how]);
	before = boot_ns();
	switch (how) {
	case SENDTO:
		count_sent(&moved, sendto(handle, data, first, MSG_FASTOPEN, (struct sockaddr *)&there.storage, there.length));
		break;
	case SENDMSG:
		count_sent(&moved, sendmsg(handle, &message, MSG_FASTOPEN));
		break;
	case DEFERRED:
		CHECK(setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &yes, sizeof(yes)));
		CHECK(connect(handle, (struct sockaddr *)&there.storage, there.length));
		count_sent(&moved, write(handle, data, first));
		break;
	case NONBLOCKING:
		CHECK(fcntl(handle, F_SETFL, O_NONBLOCK));
		count_sent(&moved, sendto(handle, data, first, MSG_FASTOPEN, (struct sockaddr *)&there.storage, there.length));
		CHECK(fcntl(handle, F_SETFL, 0));
		break;
	}
	MUST(moved.sent == first);
	wait_established(local_port(handle), remote_port(handle));
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   labels[how], before, boot_ns());
	ends = ends_of(handle);
	CHECK(getsockopt(handle, IPPROTO_TCP, TCP_INFO, &info, &length));
	MUST(info.tcpi_options & TCPI_OPT_SYN_DATA); /* else nothing was fast here, and nothing is shown */
	while (moved.sent < first + second)
		count_sent(&moved, send(handle, data, first + second - moved.sent, 0));
	CHECK(shutdown(handle, SHUT_WR));
	drain(handle, &moved);
	MUST(moved.received == ANSWER);
	say_flow(labels[how], "tcp", &ends, &moved, "syscall", true);
	close(handle);
	wait_success(pid);
	close(listener);
}

/* Nobody listens: a send that is a connect too, and fails as one. */
static void refused(void)
{
	int holder = tcp_bound(LOOPBACK, 0), handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
	struct address there = local_address(holder);
	uint64_t before = boot_ns();
	char data[101] = {0};

	MUST(sendto(handle, data, sizeof(data), MSG_FASTOPEN, (struct sockaddr *)&there.storage, there.length) == -1);
	MUST(errno == ECONNREFUSED);
	say("{\"what\":\"connect\",\"label\":\"refused\",\"pid\":%d,\"tid\":%d,\"local_port\":%u,\"remote_ip\":\"%s\""
	    ",\"remote_port\":%u,\"netns\":%" PRIu64 ",\"errno\":%d,\"result\":%d,\"before_ns\":%" PRIu64
	    ",\"after_ns\":%" PRIu64 ",\"done_ns\":%" PRIu64 "}",
	    getpid(), own_tid(), local_port(handle), LOOPBACK, local_port(holder), namespace_inode("net"), ECONNREFUSED,
	    ECONNREFUSED, before, boot_ns(), boot_ns());
	close(handle);
	close(holder);
}

int main(void)
{
	start_truth();
	own_netns();
	write_file("/proc/sys/net/ipv4/tcp_fastopen", ALL_OF_IT);
	for (int family = 0; family < 2; family++)
		for (int how = SENDTO; how <= NONBLOCKING; how++)
			one(addresses[family], (enum how)how, 101 + 10 * (size_t)how + (size_t)family, 307 * (size_t)how);
	refused();
	return 0;
}
