/* Trap 7: an AF_INET6 socket that speaks IPv4. The connecting end, the accepting end, both and neither are such
 * sockets. */
#include "trap.h"

#define PAYLOAD 1009

static void pair(const char *listen_ip, const char *connect_ip, const char *label)
{
	int listener = tcp_listener(listen_ip, 0, 5), handle, accepted;
	uint16_t port = local_port(listener), local;
	uint64_t before = boot_ns(), opened, established, closing, life;

	handle = tcp_connect(connect_ip, port, label);
	opened = boot_ns();
	local = local_port(handle);
	established = wait_established(port, local);
	accepted = tcp_accept(listener, label);
	send_exactly(accepted, PAYLOAD);
	closing = boot_ns();
	close(accepted);
	MUST(receive_all(handle) == PAYLOAD);
	close(handle);
	life = wait_gone(local, port) - before;
	say_close(label, getpid(), local, port, 0, PAYLOAD, "LAST_ACK", 0, closing - opened, life);
	say_close(label, getpid(), port, local, PAYLOAD, 0, "FIN_WAIT2", 0, closing - established, life);
	close(listener);
}

int main(void)
{
	start_truth();
	own_netns();
	pair(LOOPBACK, "::ffff:127.0.0.1", "client");
	pair("::", LOOPBACK, "server");
	pair("::ffff:127.0.0.1", "::ffff:127.0.0.1", "both");
	pair("::1", "::1", "neither");
	return 0;
}
