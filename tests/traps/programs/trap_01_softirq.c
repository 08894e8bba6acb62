/* Trap 1: connections whose state changes run in a timer's softirq, on top of a process that has nothing to do with
 * them.
 *
 * The accept queues of the listeners are full when the client connects, so its SYNs are dropped. The queues are then
 * emptied and an unrelated process spins on the client's CPU; a second later the SYN is sent again by the timer, and
 * the whole handshake, on both sides, happens while that process is current.
 */
#include "trap.h"

#define CONNECTIONS 3
#define PAYLOAD 17
#define SPIN_MS 1800

static void client(const uint16_t *ports, struct gate connecting)
{
	struct pollfd handles[CONNECTIONS];
	uint64_t before[CONNECTIONS], after[CONNECTIONS], established[CONNECTIONS];

	pin(0);
	for (int index = 0; index < CONNECTIONS; index++) {
		struct address address = address_of(LOOPBACK, ports[index]);

		handles[index].fd = tcp_socket(LOOPBACK, SOCK_NONBLOCK | SOCK_CLOEXEC);
		handles[index].events = POLLOUT;
		before[index] = boot_ns();
		MUST(connect(handles[index].fd, (struct sockaddr *)&address.storage, address.length) == -1);
		MUST(errno == EINPROGRESS);
	}
	open_gate(connecting);
	for (int index = 0; index < CONNECTIONS; index++) {
		int error = -1;
		socklen_t length = sizeof(error);

		MUST(CHECK(poll(&handles[index], 1, 20000)) == 1);
		after[index] = boot_ns();
		CHECK(getsockopt(handles[index].fd, SOL_SOCKET, SO_ERROR, &error, &length));
		MUST(error == 0);
		say_socket("connect", handles[index].fd,
			   "\"label\":\"late\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
			   before[index], after[index]);
		established[index] = wait_established(ports[index], local_port(handles[index].fd));
	}
	for (int index = 0; index < CONNECTIONS; index++) {
		uint16_t local = local_port(handles[index].fd);
		uint64_t closing, life;

		CHECK(fcntl(handles[index].fd, F_SETFL, 0));
		send_exactly(handles[index].fd, PAYLOAD);
		closing = boot_ns();
		close(handles[index].fd);
		life = wait_gone(local, ports[index]) - before[index];
		say_close("late", getpid(), local, ports[index], PAYLOAD, 0, "FIN_WAIT2", 0, closing - after[index],
			  life);
		say_close("late", getppid(), ports[index], local, 0, PAYLOAD, "LAST_ACK", 0,
			  closing - established[index], life);
	}
	_exit(0);
}

static void noise(void)
{
	uint64_t end = boot_ns() + SPIN_MS * 1000000ull;

	CHECK(prctl(PR_SET_NAME, "noise"));
	pin(0);
	while (boot_ns() < end)
		for (volatile int turn = 0; turn < 10000; turn++)
			;
	_exit(0);
}

int main(void)
{
	int listeners[CONNECTIONS], fillers[CONNECTIONS];
	uint16_t ports[CONNECTIONS];
	uint64_t opening[CONNECTIONS], opened[CONNECTIONS];
	struct gate connecting = new_gate();
	pid_t client_pid, noise_pid;

	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	pin(1);
	for (int index = 0; index < CONNECTIONS; index++) {
		listeners[index] = tcp_listener(LOOPBACK, 0, 0);
		ports[index] = local_port(listeners[index]);
		/* With a backlog of 0, one connection fills the queue. */
		opening[index] = boot_ns();
		fillers[index] = tcp_connect(LOOPBACK, ports[index], "filler");
		opened[index] = wait_established(ports[index], local_port(fillers[index]));
	}
	client_pid = spawn();
	if (client_pid == 0) {
		/* What it inherited would keep the connections of the parent open. */
		for (int index = 0; index < CONNECTIONS; index++) {
			close(listeners[index]);
			close(fillers[index]);
		}
		client(ports, connecting);
	}
	wait_gate(connecting);
	for (int index = 0; index < CONNECTIONS; index++) {
		uint16_t local = local_port(fillers[index]);
		uint64_t closing, life;
		int accepted = tcp_accept(listeners[index], "filler");

		closing = boot_ns();
		close(accepted);
		close(fillers[index]);
		life = wait_gone(local, ports[index]) - opening[index];
		say_close("filler", getpid(), ports[index], local, 0, 0, "FIN_WAIT2", 0, closing - opened[index], life);
		say_close("filler", getpid(), local, ports[index], 0, 0, "LAST_ACK", 0, closing - opened[index], life);
	}
	noise_pid = spawn();
	if (noise_pid == 0)
		noise();
	say("{\"what\":\"noise\",\"pid\":%d}", noise_pid);
	say("{\"what\":\"client\",\"pid\":%d}", client_pid);
	for (int index = 0; index < CONNECTIONS; index++) {
		int accepted = tcp_accept(listeners[index], "late");

		MUST(receive_all(accepted) == PAYLOAD);
		close(accepted);
	}
	wait_success(client_pid);
	wait_success(noise_pid);
	return 0;
}
