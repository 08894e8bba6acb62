/* Trap 2: on loopback the task that runs while an accepted socket becomes established is the client. Client, server and
 * an unrelated spinning process share one CPU; the server alone accepts. */
#include "trap.h"

#define ROUNDS 31

static void server(int listener)
{
	pin(0);
	for (int round = 0; round < ROUNDS; round++) {
		int handle = tcp_accept(listener, "round");

		send_exactly(handle, (size_t)round + 1);
		close(handle);
	}
	_exit(0);
}

static void client(uint16_t port, pid_t server_pid)
{
	pin(0);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t before = boot_ns();
		int handle = tcp_connect(LOOPBACK, port, "round");
		uint64_t opened = boot_ns(), closing, life;
		uint16_t local = local_port(handle);
		size_t received = receive_all(handle);

		MUST(received == (size_t)round + 1);
		closing = boot_ns();
		close(handle);
		life = wait_gone(local, port) - before;
		/* The server closed first, so this end waited for the last acknowledgement. */
		say_close("round", getpid(), local, port, 0, received, "LAST_ACK", 0, closing - opened, life);
		say_close("round", server_pid, port, local, received, 0, "FIN_WAIT2", 0, 0, life);
	}
	_exit(0);
}

static void noise(void)
{
	CHECK(prctl(PR_SET_NAME, "noise"));
	pin(0);
	CHECK(nice(5)); /* enough to be current most of the time, and the others still get on */
	limit_life(LIFETIME_S);
	for (;;)
		for (volatile int turn = 0; turn < 10000; turn++)
			;
}

int main(void)
{
	int listener, status;
	uint16_t port;
	pid_t noise_pid, server_pid, client_pid;

	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	listener = tcp_listener(LOOPBACK, 0, 16);
	port = local_port(listener);
	noise_pid = spawn();
	if (noise_pid == 0)
		noise();
	server_pid = spawn();
	if (server_pid == 0)
		server(listener);
	client_pid = spawn();
	if (client_pid == 0) {
		close(listener);
		client(port, server_pid);
	}
	wait_success(client_pid);
	wait_success(server_pid);
	CHECK(kill(noise_pid, SIGKILL));
	status = wait_for(noise_pid);
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	say("{\"what\":\"roles\",\"server\":%d,\"client\":%d,\"noise\":%d,\"rounds\":%d,\"port\":%u}", server_pid,
	    client_pid, noise_pid, ROUNDS, port);
	return 0;
}
