/* Trap 44: more than tables and dictionaries like. 40,009 sockets are open at the same time, in three processes, before
 * any of their connections carries a byte; and one socket sends to very many peers, one datagram each.
 *
 * Fewer where the machine has not the memory or the descriptors for it; a line tells how many. A line on standard input
 * begins each part: to open the sockets, to move bytes and close them, to send to the peers. */
#include "flows.h"

#define WORKERS 3
#define SOCKETS 40009
#define PEERS 100003
#define FEW_SOCKETS 4001
#define FEW_PEERS 10007
/* What one of them may cost, all in all: in the kernel, in the tracer, and in the files of a test that lie in memory. */
#define SOCKET_COST (24 << 10)
#define BATCH 101

static struct gate opened, begin, done, leave;

/* Whether a tenth of all is enough, as for an emulated machine. */
static bool are_few(void)
{
	const char *asked = getenv("TRACER_TEST_FEW");

	return asked != NULL && strcmp(asked, "1") == 0;
}

static uint64_t memory_available(void)
{
	FILE *table = fopen("/proc/meminfo", "re");
	unsigned long kilobytes = 0;
	char line[256];

	MUST(table != NULL);
	while (fgets(line, sizeof(line), table) != NULL)
		if (sscanf(line, "MemAvailable: %lu kB", &kilobytes) == 1)
			break;
	fclose(table);
	MUST(kilobytes > 0);
	return (uint64_t)kilobytes << 10;
}

/* How many sockets of TCP there are in this namespace, by the kernel's own count. */
static int sockets_in_use(void)
{
	FILE *table = fopen("/proc/self/net/sockstat", "re");
	char line[256];
	int count = -1;

	MUST(table != NULL);
	while (fgets(line, sizeof(line), table) != NULL)
		if (sscanf(line, "TCP: inuse %d", &count) == 1)
			break;
	fclose(table);
	return count;
}

/* Waits until all connections of this namespace are over, and returns how many sockets were still on their way there.
 * close(2) does not wait for the end: where the CPU's queue of packets runs full, a FIN is dropped and sent again, a fifth
 * of a second later at the soonest. As in wait_gone() for what another CPU is about to do then. */
static int wait_all_gone(void)
{
	int first = sockets_in_use();

	for (int left = first; left > 0; left = sockets_in_use())
		sleep_ms(20); /* the program's own limit ends it */
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == -1)
		sleep_ms(50);
	return first;
}

/* The bytes that a connection carries, by its number. */
static size_t share(int number)
{
	return 1 + (size_t)number % 1009;
}

static void worker(int which, int connections)
{
	static char text[LINE_SIZE - 1024], block[2048];
	int *near = calloc((size_t)connections, sizeof(int)), *far = calloc((size_t)connections, sizeof(int)),
	    listener = tcp_listener(LOOPBACK, 0, 4096);
	uint16_t port = local_port(listener);
	size_t at = 0;

	MUST(near != NULL && far != NULL);
	for (int number = 0; number < connections; number++) {
		near[number] = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
		connect_to(near[number], LOOPBACK, port);
		far[number] = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	}
	open_gate(opened);
	wait_gate(begin);
	for (int number = 0; number < connections; number++) {
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%u", number ? "," : "", local_port(near[number]));
		MUST(at < sizeof(text));
		MUST(send(near[number], block, share(number), 0) == (ssize_t)share(number));
		MUST(recv(far[number], block, sizeof(block), 0) == (ssize_t)share(number));
	}
	say("{\"what\":\"connections\",\"pid\":%d,\"worker\":%d,\"port\":%u,\"netns\":%" PRIu64 ",\"count\":%d,\"ports\":[%s]}",
	    getpid(), which, port, namespace_inode("net"), connections, text);
	open_gate(done);
	wait_gate(leave);
	for (int number = 0; number < connections; number++) {
		close(near[number]);
		close(far[number]);
	}
	close(listener);
	_exit(0);
}

static void sockets(void)
{
	uint64_t most = memory_available() / SOCKET_COST, given;
	struct rlimit limit;
	pid_t pids[WORKERS];
	int count = are_few() ? FEW_SOCKETS : SOCKETS, connections[WORKERS];

	opened = new_gate();
	begin = new_gate();
	done = new_gate();
	leave = new_gate();
	CHECK(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit));
	given = ((uint64_t)limit.rlim_max - 100) * WORKERS;
	if (given < most)
		most = given;
	if (most < (uint64_t)count)
		count = (int)most;
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "1024 65000");
	for (int which = 0; which < WORKERS; which++) {
		/* Each has a listener, and two sockets for a connection. */
		connections[which] = (count - WORKERS) / 2 / WORKERS + (which < (count - WORKERS) / 2 % WORKERS);
		pids[which] = spawn();
		if (pids[which] == 0)
			worker(which, connections[which]);
	}
	for (int which = 0; which < WORKERS; which++)
		wait_gate(opened);
	count = WORKERS + 2 * (connections[0] + connections[1] + connections[2]);
	MUST(sockets_in_use() == count);
	say("{\"what\":\"open\",\"sockets\":%d,\"most\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}", count, most, boot_ns());
	wait_go();
	for (int which = 0; which < WORKERS; which++)
		open_gate(begin);
	for (int which = 0; which < WORKERS; which++)
		wait_gate(done); /* none closes one before all bytes have moved */
	for (int which = 0; which < WORKERS; which++)
		open_gate(leave);
	for (int which = 0; which < WORKERS; which++)
		wait_success(pids[which]);
	count = wait_all_gone();
	say("{\"what\":\"closed\",\"closing\":%d,\"after_ns\":%" PRIu64 "}", count, boot_ns());
}

/* One datagram to each of very many peers, where nobody is; 101 to each call. */
static void peers(void)
{
	static struct address places[BATCH];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH];
	static char block[128];
	int handle = udp_bound(LOOPBACK, 0), count = are_few() ? FEW_PEERS : PEERS;
	struct moved moved = {0};

	if (memory_available() / SOCKET_COST < (uint64_t)count)
		count = (int)(memory_available() / SOCKET_COST);
	for (int first = 0; first < count; first += BATCH) {
		int size = count - first < BATCH ? count - first : BATCH;

		for (int at = 0; at < size; at++) {
			int number = first + at;
			char ip[32];

			snprintf(ip, sizeof(ip), "127.1.%d.%d", number / 200 / 250 + 1, number / 200 % 250 + 1);
			places[at] = address_of(ip, (uint16_t)(20000 + number % 200));
			parts[at] = (struct iovec){block, 1 + (size_t)number % 101};
			messages[at].msg_hdr = (struct msghdr){.msg_name = &places[at].storage,
							       .msg_namelen = places[at].length,
							       .msg_iov = &parts[at],
							       .msg_iovlen = 1};
		}
		MUST(CHECK(sendmmsg(handle, messages, (unsigned)size, 0)) == size);
		for (int at = 0; at < size; at++)
			count_sent(&moved, messages[at].msg_len);
	}
	say("{\"what\":\"peers\",\"pid\":%d,\"count\":%d,\"sent\":%" PRIu64 ",\"local_port\":%u,\"netns\":%" PRIu64 "}", getpid(),
	    count, moved.sent, local_port(handle), namespace_inode("net"));
	close(handle);
}

int main(void)
{
	start_truth();
	own_netns();
	say("{\"what\":\"ready\",\"pid\":%d}", getpid());
	wait_go();
	sockets();
	wait_go();
	peers();
	return 0;
}
