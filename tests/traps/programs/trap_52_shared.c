/* Trap 52: one socket that several processes use at the same time, in turn: a connection, a datagram socket that all
 * receive from and answer by. And one process with the two ends of one connection. */
#include "flows.h"

#define WORKERS 3
#define ROUNDS 5

/* Turns go round: each waits for its own gate and opens the next one's. */
static struct gate gates[WORKERS];

static char block[65536];

static size_t share(int worker, int round)
{
	return 1000 + 100 * (size_t)worker + (size_t)round;
}

/* All three send on one connection, each of them five times. */
static void connection(void)
{
	uint16_t port;
	pid_t sink = spawn_sink(LOOPBACK, "connection", 0, &port), workers[WORKERS];
	int handle = tcp_connect(LOOPBACK, port, "connection");
	struct ends ends = ends_of(handle);

	for (int worker = 0; worker < WORKERS; worker++)
		gates[worker] = new_gate();
	for (int worker = 0; worker < WORKERS; worker++) {
		workers[worker] = spawn();
		if (workers[worker] == 0) {
			struct moved moved = {0};

			for (int round = 0; round < ROUNDS; round++) {
				wait_gate(gates[worker]);
				count_sent(&moved, send(handle, block, share(worker, round), 0));
				open_gate(gates[(worker + 1) % WORKERS]);
			}
			say_flow("connection", "tcp", &ends, &moved, "syscall", true);
			_exit(0);
		}
	}
	open_gate(gates[0]);
	for (int worker = 0; worker < WORKERS; worker++)
		wait_success(workers[worker]);
	close(handle); /* who opened it moved nothing */
	wait_success(sink);
}

/* A server of datagrams with three processes: whoever's turn it is takes one and answers it. */
static void server(void)
{
	int shared = udp_bound(LOOPBACK, 0), client = udp_bound(LOOPBACK, 0);
	struct moved moved = {0};
	struct ends ends, back;
	pid_t workers[WORKERS];

	connect_to(client, LOOPBACK, local_port(shared));
	ends = ends_of(client);
	back = (struct ends){ends.remote, ends.local};
	for (int worker = 0; worker < WORKERS; worker++)
		gates[worker] = new_gate();
	for (int worker = 0; worker < WORKERS; worker++) {
		workers[worker] = spawn();
		if (workers[worker] == 0) {
			struct moved own = {0};

			close(client);
			for (int round = 0; round < ROUNDS; round++) {
				struct address peer = {.length = sizeof(peer.storage)};

				wait_gate(gates[worker]);
				count_received(&own, recvfrom(shared, block, sizeof(block), 0,
							      (struct sockaddr *)&peer.storage, &peer.length));
				send_to(shared, &peer, share(worker, round), &own);
				open_gate(gates[(worker + 1) % WORKERS]);
			}
			say_flow("server", "udp", &back, &own, "syscall", false);
			_exit(0);
		}
	}
	open_gate(gates[0]);
	for (int number = 0; number < WORKERS * ROUNDS; number++) {
		count_sent(&moved, send(client, block, 300 + (size_t)number, 0));
		count_received(&moved, recv(client, block, sizeof(block), 0));
	}
	for (int worker = 0; worker < WORKERS; worker++)
		wait_success(workers[worker]);
	say_flow("server", "udp", &ends, &moved, "syscall", true);
	close(client);
	close(shared);
}

/* Both ends are one process's: two flows all the same, of which each byte is sent once and received once. */
static void both_ends(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle = tcp_connect(LOOPBACK, local_port(listener), "both"),
	    accepted = tcp_accept(listener, "both");
	struct moved client = {0}, server_side = {0};
	struct ends near = ends_of(handle), far = ends_of(accepted);

	for (int round = 0; round < ROUNDS; round++) {
		count_sent(&client, send(handle, block, 4001, 0));
		while (server_side.received < client.sent)
			count_received(&server_side, recv(accepted, block, sizeof(block), 0));
		count_sent(&server_side, send(accepted, block, 101, 0));
		while (client.received < server_side.sent)
			count_received(&client, recv(handle, block, sizeof(block), 0));
	}
	say_flow("both", "tcp", &near, &client, "syscall", true);
	say_flow("both", "tcp", &far, &server_side, "syscall", false);
	close(handle);
	close(accepted);
	close(listener);
}

int main(void)
{
	start_truth();
	own_netns();
	connection();
	server();
	both_ends();
	return 0;
}
