/* Trap 50: the same four numbers of UDP in two network namespaces at the same time are two flows. Both sides are children
 * of one process, with the sockets of both open at the same time. */
#include "flows.h"

#define FROM_PORT 18501
#define TO_PORT 18502

static void side(const char *label, int count, size_t size, struct gate arrived, struct gate leave)
{
	struct moved sent = {0}, received = {0};
	struct ends near, far;
	char block[4096] = {0};
	int from, to;

	own_netns();
	from = udp_bound(LOOPBACK, FROM_PORT);
	to = udp_bound(LOOPBACK, TO_PORT);
	connect_to(from, LOOPBACK, TO_PORT);
	near = ends_of(from);
	far = (struct ends){near.remote, near.local};
	for (int number = 0; number < count; number++) {
		if (number == 1) { /* the first datagram of either has gone before the second of any */
			open_gate(arrived);
			wait_gate(leave);
		}
		count_sent(&sent, send(from, block, size, 0));
		take_datagram(to, &received);
		count_sent(&received, sendto(to, block, 2 * size, 0, (struct sockaddr *)&near.local.storage, near.local.length));
		count_received(&sent, recv(from, block, sizeof(block), 0));
	}
	say_flow(label, "udp", &near, &sent, "syscall", true);
	say_flow(label, "udp", &far, &received, "syscall", false);
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
			side(index ? "second" : "first", index ? 11 : 7, index ? 1013 : 503, arrived, leave);
	}
	wait_gate(arrived);
	wait_gate(arrived);
	open_gate(leave);
	open_gate(leave);
	wait_success(pids[0]);
	wait_success(pids[1]);
	return 0;
}
