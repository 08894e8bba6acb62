/* Trap 35: each CPU has a ring of its own. Two processes on two CPUs take turns, each step caused by the one before: a
 * refused connect to an address that carries the number of the step, or, every fourth time, a child that executes and
 * ends. */
#include "trap.h"

#define STEPS 211

static void connect_step(int number, uint16_t port)
{
	char ip[32];
	struct address address;
	int handle;

	snprintf(ip, sizeof(ip), "127.77.%d.%d", number / 256, number % 256);
	address = address_of(ip, port);
	handle = tcp_socket(ip, SOCK_CLOEXEC);
	MUST(connect(handle, (struct sockaddr *)&address.storage, address.length) == -1 && errno == ECONNREFUSED);
	close(handle);
}

static pid_t exec_step(int number)
{
	pid_t pid = spawn();

	if (pid == 0) {
		char text[16];
		char *arguments[] = {"step", text, NULL};

		snprintf(text, sizeof(text), "%d", number);
		CHECK(setenv(CASE_VARIABLE, "step", 1));
		execv(own_path(), arguments);
		die("execv", __LINE__);
	}
	MUST(WEXITSTATUS(wait_for(pid)) == 35);
	return pid;
}

static void player(int which, uint16_t port, struct gate mine, struct gate other)
{
	pin(which);
	for (int number = which; number < STEPS; number += 2) {
		uint64_t before;
		pid_t child = 0;

		wait_gate(mine);
		before = boot_ns();
		if (number % 4 == 3)
			child = exec_step(number);
		else
			connect_step(number, port);
		say("{\"what\":\"step\",\"number\":%d,\"pid\":%d,\"child\":%d,\"before_ns\":%" PRIu64
		    ",\"after_ns\":%" PRIu64 "}",
		    number, getpid(), child, before, boot_ns());
		open_gate(other);
	}
	_exit(0);
}

int main(int count, char **arguments)
{
	struct gate gates[2] = {new_gate(), new_gate()};
	pid_t pids[2];
	uint16_t port;
	int holder;

	(void)count;
	(void)arguments;
	if (getenv(CASE_VARIABLE) != NULL)
		return 35;
	start_truth();
	holder = tcp_bound("0.0.0.0", 0); /* bound on every address, listening on none */
	port = local_port(holder);
	say("{\"what\":\"target\",\"port\":%u,\"steps\":%d}", port, STEPS);
	for (int which = 0; which < 2; which++) {
		pids[which] = spawn();
		if (pids[which] == 0)
			player(which, port, gates[which], gates[!which]);
	}
	open_gate(gates[0]);
	wait_success(pids[0]);
	wait_success(pids[1]);
	close(holder);
	return 0;
}
