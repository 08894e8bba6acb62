/* Trap 5: when the connect begins, the socket has no source port yet. Ports chosen by the kernel, by bind and by bind
 * without a port (IP_BIND_ADDRESS_NO_PORT), over IPv4 and IPv6. */
#include "trap.h"

#define ROUNDS 11

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static void one(int listener, const char *ip, const char *label)
{
	uint16_t port = local_port(listener), local;
	struct address address = address_of(ip, port), own = address_of(ip, 0);
	int handle = tcp_socket(ip, SOCK_CLOEXEC), yes = 1, accepted;
	uint64_t before, opened, established, closing, life;

	if (strcmp(label, "bound") == 0) {
		CHECK(bind(handle, (struct sockaddr *)&own.storage, own.length));
	} else if (strcmp(label, "address-only") == 0) {
		CHECK(setsockopt(handle, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes)));
		CHECK(bind(handle, (struct sockaddr *)&own.storage, own.length));
		MUST(local_port(handle) == 0);
	}
	before = boot_ns();
	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
	opened = boot_ns();
	local = local_port(handle);
	MUST(local != 0);
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   label, before, opened);
	established = wait_established(port, local);
	accepted = tcp_accept(listener, label);
	send_exactly(handle, local); /* as many bytes as the number of the port */
	closing = boot_ns();
	close(handle);
	MUST(receive_all(accepted) == local);
	close(accepted);
	life = wait_gone(local, port) - before;
	say_close(label, getpid(), local, port, local, 0, "FIN_WAIT2", 0, closing - opened, life);
	say_close(label, getpid(), port, local, 0, local, "LAST_ACK", 0, closing - established, life);
}

int main(void)
{
	static const char *const labels[] = {"free", "bound", "address-only"};
	static const char *const addresses[] = {LOOPBACK, "::1"};
	int buffer = 1 << 20;

	start_truth();
	own_netns(); /* where IPv6 has a loopback address whatever the machine's settings are */
	for (int family = 0; family < 2; family++) {
		int listener = tcp_bound(addresses[family], 0);

		/* Accepted sockets inherit it: one process plays both ends, so all the bytes must fit. */
		CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)));
		tcp_listen(listener, addresses[family], 5);
		for (int round = 0; round < ROUNDS; round++)
			one(listener, addresses[family], labels[round % 3]);
		close(listener);
	}
	return 0;
}
