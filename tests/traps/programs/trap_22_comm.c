/* Trap 22: a process may call itself what it likes. It takes a well-known name, with exactly 15 bytes and with more,
 * and connects. */
#include "trap.h"

static void named(int listener, const char *name)
{
	char kept[16];
	int handle, accepted;

	CHECK(prctl(PR_SET_NAME, name));
	CHECK(prctl(PR_GET_NAME, kept));
	handle = tcp_connect(LOOPBACK, local_port(listener), "named");
	say("{\"what\":\"named\",\"pid\":%d,\"name\":\"%s\",\"local_port\":%u}", getpid(), kept, local_port(handle));
	accepted = tcp_accept(listener, "named");
	close(handle);
	close(accepted);
}

int main(void)
{
	int listener;

	start_truth();
	listener = tcp_listener(LOOPBACK, 0, 5);
	named(listener, "sshd");
	named(listener, "exactly-fifteen");
	named(listener, "longer-than-the-fifteen-it-may-be");
	named(listener, "");
	return 0;
}
