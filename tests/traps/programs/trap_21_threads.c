/* Trap 21: threads with names of their own connect and accept for their process. */
#include <pthread.h>

#include "trap.h"

#define PAYLOAD 211

static int listener;
static struct gate connected;

static void *connecting(void *nothing)
{
	int handle;

	CHECK(prctl(PR_SET_NAME, "the-client"));
	handle = tcp_connect(LOOPBACK, local_port(listener), "thread");
	open_gate(connected);
	MUST(receive_all(handle) == PAYLOAD);
	close(handle);
	return nothing;
}

static void *accepting(void *nothing)
{
	int handle;

	CHECK(prctl(PR_SET_NAME, "the-server"));
	wait_gate(connected);
	handle = tcp_accept(listener, "thread");
	send_exactly(handle, PAYLOAD);
	close(handle);
	return nothing;
}

int main(void)
{
	pthread_t threads[2];

	start_truth();
	connected = new_gate();
	listener = tcp_listener(LOOPBACK, 0, 5);
	MUST(pthread_create(&threads[0], NULL, connecting, NULL) == 0);
	MUST(pthread_create(&threads[1], NULL, accepting, NULL) == 0);
	MUST(pthread_join(threads[0], NULL) == 0);
	MUST(pthread_join(threads[1], NULL) == 0);
	sleep_ms(50);
	return 0;
}
