/* Trap 33: socket memory is used again at once. Many short connections, one after the other, every second one ended by
 * a reset; the n-th sends n bytes. A "pair" line names the ports of each. */
#include "trap.h"

#define CONNECTIONS 1009

int main(void)
{
	struct linger now = {1, 0};
	int listener;
	uint16_t port;

	start_truth();
	listener = tcp_listener(LOOPBACK, 0, 5);
	port = local_port(listener);
	for (int number = 1; number <= CONNECTIONS; number++) {
		struct address address = address_of(LOOPBACK, port);
		int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC), accepted;
		uint64_t before = boot_ns();
		uint16_t local;

		CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
		accepted = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		local = local_port(handle);
		send_exactly(handle, (size_t)number);
		MUST(receive_up_to(accepted, (size_t)number) == (size_t)number);
		if (number % 2)
			CHECK(setsockopt(handle, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
		close(handle);
		close(accepted);
		say("{\"what\":\"pair\",\"number\":%d,\"pid\":%d,\"local_port\":%u,\"remote_port\":%u"
		    ",\"reset\":%s,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}",
		    number, getpid(), local, port, number % 2 ? "true" : "false", before, boot_ns());
	}
	close(listener);
	sleep_ms(200);
	return 0;
}
