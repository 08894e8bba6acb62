/* Trap 18: the same four numbers in two network namespaces at the same time are two connections. */
#include "trap.h"

#define SERVER_PORT 18181
#define CLIENT_PORT 18182

/* One side: its own namespace, listener and client. Both sides have their connection open before either closes it. */
static void side(const char *label, size_t payload, struct gate arrived, struct gate leave)
{
	struct address own = address_of(LOOPBACK, CLIENT_PORT), there = address_of(LOOPBACK, SERVER_PORT);
	int listener, handle, accepted, yes = 1;
	uint64_t before, opened, established, closing, life;

	own_netns();
	listener = tcp_listener(LOOPBACK, SERVER_PORT, 5);
	handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
	CHECK(setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
	CHECK(bind(handle, (struct sockaddr *)&own.storage, own.length));
	before = boot_ns();
	CHECK(connect(handle, (struct sockaddr *)&there.storage, there.length));
	opened = boot_ns();
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   label, before, opened);
	established = wait_established(SERVER_PORT, CLIENT_PORT);
	accepted = tcp_accept(listener, label);
	send_exactly(handle, payload);
	open_gate(arrived);
	wait_gate(leave);
	closing = boot_ns();
	close(handle);
	MUST(receive_all(accepted) == payload);
	close(accepted);
	life = wait_gone(CLIENT_PORT, SERVER_PORT) - before;
	say_close(label, getpid(), CLIENT_PORT, SERVER_PORT, payload, 0, "FIN_WAIT2", 0, closing - opened, life);
	say_close(label, getpid(), SERVER_PORT, CLIENT_PORT, 0, payload, "LAST_ACK", 0, closing - established,
		  life);
	_exit(0);
}

int main(void)
{
	struct gate arrived = new_gate(), leave = new_gate();
	pid_t pids[2];

	start_truth();
	for (int index = 0; index < 2; index++) {
		pids[index] = spawn();
		if (pids[index] == 0)
			side(index ? "second" : "first", index ? 2003 : 1009, arrived, leave);
	}
	wait_gate(arrived);
	wait_gate(arrived);
	open_gate(leave);
	open_gate(leave);
	wait_success(pids[0]);
	wait_success(pids[1]);
	return 0;
}
