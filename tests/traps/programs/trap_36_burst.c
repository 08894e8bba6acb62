/* Trap 36: more events at once than any small buffer holds. Two processes on two CPUs, in a network namespace of their
 * own, make refused connects as fast as they can, and know exactly how many. The storm begins when a line comes on
 * standard input. */
#include "trap.h"

#define STORM 5003

static void storm(int which, uint16_t port)
{
	struct address address = address_of(LOOPBACK, port);

	pin(which);
	for (int number = 0; number < STORM; number++) {
		int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);

		MUST(connect(handle, (struct sockaddr *)&address.storage, address.length) == -1 &&
		     errno == ECONNREFUSED);
		close(handle);
	}
	_exit(0);
}

int main(void)
{
	char line[64];
	uint64_t before;
	uint16_t port;
	pid_t pids[2];

	start_truth();
	own_netns();
	port = local_port(tcp_bound(LOOPBACK, 0));
	say("{\"what\":\"storm\",\"pid\":%d,\"netns\":%" PRIu64 ",\"port\":%u,\"count\":%d}", getpid(),
	    namespace_inode("net"), port, 2 * STORM);
	MUST(fgets(line, sizeof(line), stdin) != NULL);
	before = boot_ns();
	for (int which = 0; which < 2; which++) {
		pids[which] = spawn();
		if (pids[which] == 0)
			storm(which, port);
	}
	wait_success(pids[0]);
	wait_success(pids[1]);
	say("{\"what\":\"stormed\",\"pids\":[%d,%d],\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}", pids[0],
	    pids[1], before, boot_ns());
	return 0;
}
