/* Trap 45: a connection on which nothing happens for a while is still open. Keepalive is off, both ends sleep, then one
 * byte goes each way. */
#include "trap.h"

#define SILENCE_S 8

int main(void)
{
	int listener, handle, accepted;
	uint16_t port, local;
	uint64_t before, opened, established, closing, life;

	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	listener = tcp_listener(LOOPBACK, 0, 5);
	port = local_port(listener);
	before = boot_ns();
	handle = tcp_connect(LOOPBACK, port, "idle");
	opened = boot_ns();
	local = local_port(handle);
	established = wait_established(port, local);
	accepted = tcp_accept(listener, "idle");
	sleep_ms(SILENCE_S * 1000L);
	MUST(state_of(local, port, false) == 1);
	send_exactly(handle, 1);
	MUST(receive_up_to(accepted, 1) == 1);
	send_exactly(accepted, 1);
	MUST(receive_up_to(handle, 1) == 1);
	closing = boot_ns();
	say("{\"what\":\"silence\",\"pid\":%d,\"until_ns\":%" PRIu64 "}", getpid(), closing);
	close(handle);
	MUST(receive_all(accepted) == 0);
	close(accepted);
	life = wait_gone(local, port) - before;
	say_close("idle", getpid(), local, port, 1, 1, "FIN_WAIT2", 0, closing - opened, life);
	say_close("idle", getpid(), port, local, 1, 1, "LAST_ACK", 0, closing - established, life);
	return 0;
}
