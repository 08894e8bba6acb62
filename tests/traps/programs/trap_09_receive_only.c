/* Trap 9: who only receives never sends, connects or accepts: read, recv, recvmsg and recvfrom, each by a process of its
 * own, from one or two senders; into buffers that are too small; and one for whom nothing comes. */
#include "flows.h"

#define RECEIVERS 6

enum how { READ, RECV, MESSAGE, FROM, SHORT, NOTHING };

static const char *const labels[RECEIVERS] = {"read", "recv", "recvmsg", "recvfrom", "short", "nothing"};
/* Bound to any address, to one, over IPv4 and IPv6. */
static const char *const places[RECEIVERS] = {"0.0.0.0", LOOPBACK, "::1", "0.0.0.0", LOOPBACK, LOOPBACK};

static ssize_t take(int handle, enum how how, int number)
{
	static char block[4096];
	struct address from = {.length = sizeof(from.storage)};
	struct iovec parts[2] = {{block, 10}, {block + 10, sizeof(block) - 10}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	switch (how) {
	case READ:
		return read(handle, block, sizeof(block));
	case RECV:
		return recv(handle, block, sizeof(block), 0);
	case MESSAGE:
		return recvmsg(handle, &message, 0);
	case FROM:
		return recvfrom(handle, block, sizeof(block), 0, (struct sockaddr *)&from.storage, &from.length);
	case SHORT: /* The rest of the datagram is thrown away; with MSG_TRUNC its full length is returned all the same. */
		return recv(handle, block, 20, number % 2 ? MSG_TRUNC : 0);
	case NOTHING:
		MUST(recv(handle, block, sizeof(block), MSG_DONTWAIT) == -1 && errno == EAGAIN);
	}
	return 0;
}

/* Datagrams of 100 bytes and more from each of the senders, who come one after the other. */
static void receiver(enum how how, int counts[2], int ports, int told)
{
	struct ends from[2];
	struct moved moved[2] = {0};
	int handle = udp_bound(places[how], 0);
	uint16_t port = local_port(handle), senders[2];

	MUST(write(told, &port, sizeof(port)) == sizeof(port));
	MUST(read(ports, senders, sizeof(senders)) == sizeof(senders));
	for (int which = 0; which < 2; which++) {
		from[which].local = local_address(handle);
		from[which].remote = address_of(strchr(places[how], ':') ? "::1" : LOOPBACK, senders[which]);
		for (int number = 0; number < counts[which]; number++) {
			wait_readable(handle);
			count_received(&moved[which], take(handle, how, number));
		}
		if (how == FROM && counts[which])
			say_flow(labels[how], "udp", &from[which], &moved[which], "syscall", false);
	}
	if (how != FROM && how != NOTHING) {
		moved[0].received += moved[1].received;
		moved[0].received_packets += moved[1].received_packets;
		say_unasked(labels[how], &from[0].local, senders, &moved[0]);
	}
	if (how == NOTHING) {
		take(handle, how, 0);
		say("{\"what\":\"nothing\",\"pid\":%d,\"port\":%u,\"netns\":%" PRIu64 "}", getpid(), port,
		    namespace_inode("net"));
	}
	_exit(0); /* without a close */
}

int main(void)
{
	/* Of one sender, or of two; told before the fork, known to both. */
	static int counts[RECEIVERS][2] = {{7, 0}, {5, 6}, {11, 0}, {3, 8}, {4, 0}, {0, 0}};

	start_truth();
	own_netns();
	for (int how = READ; how < RECEIVERS; how++) {
		bool six = strchr(places[how], ':') != NULL;
		struct gate ports = new_gate(), told = new_gate();
		pid_t pid = spawn();
		int senders[2];
		uint16_t port, numbers[2];
		struct moved moved[2] = {0};

		if (pid == 0)
			receiver((enum how)how, counts[how], ports.ends[0], told.ends[1]);
		MUST(read(told.ends[0], &port, sizeof(port)) == sizeof(port));
		for (int which = 0; which < 2; which++) {
			senders[which] = udp_bound(six ? "::1" : LOOPBACK, 0);
			connect_to(senders[which], six ? "::1" : LOOPBACK, port);
			numbers[which] = local_port(senders[which]);
		}
		/* All are there, in order, before the receiver begins. */
		for (int which = 0; which < 2; which++)
			for (int number = 0; number < counts[how][which]; number++) {
				static char zeros[512];

				count_sent(&moved[which], send(senders[which], zeros, 100 + 10 * (size_t)how + (size_t)number, 0));
			}
		MUST(write(ports.ends[1], numbers, sizeof(numbers)) == sizeof(numbers));
		for (int which = 0; which < 2; which++) {
			struct ends ends = ends_of(senders[which]);

			if (counts[how][which])
				say_flow(labels[how], "udp", &ends, &moved[which], "syscall", true);
		}
		wait_success(pid);
		close(senders[0]);
		close(senders[1]);
	}
	return 0;
}
