/* Trap 34: the wall clock is set an hour ahead and back, while a process and a connection live on and others come and go.
 * The test lets each phase begin when it has seen the one before. */
#include "trap.h"

#define PHASES 3
#define BLIPS 11
#define STEP_S 3600

static int64_t wall_minus_boot;

/* Back to the wall clock that there would be. */
static void restore(void)
{
	int64_t now = wall_minus_boot + (int64_t)boot_ns();
	struct timespec wall = {now / 1000000000, now % 1000000000};

	CHECK(clock_settime(CLOCK_REALTIME, &wall));
}

/* Short processes, each told with the phase that it belongs to. */
static void blips(int phase)
{
	for (int number = 0; number < BLIPS; number++) {
		uint64_t before = boot_ns();
		pid_t pid = spawn();
		int status;

		if (pid == 0) {
			execl(own_path(), "blip", NULL);
			die("execl", __LINE__);
		}
		status = wait_for(pid);
		say("{\"what\":\"blip\",\"phase\":%d,\"pid\":%d,\"status\":%d,\"before_ns\":%" PRIu64
		    ",\"gone_ns\":%" PRIu64 "}",
		    phase, pid, status, before, boot_ns());
	}
}

int main(void)
{
	struct timespec wall;
	struct keeper keeper;
	struct gate end = new_gate();
	uint64_t opening, opened, closing, life, began = boot_ns();
	int listener, near, far, status;
	uint16_t local, port;
	pid_t elder;

	if (getenv(CASE_VARIABLE) != NULL)
		return 3;
	start_truth();
	CHECK(setenv(CASE_VARIABLE, "blip", 1));
	own_netns();
	elder = spawn();
	if (elder == 0) {
		wait_gate(end);
		_exit(5);
	}
	opening = boot_ns();
	listener = tcp_listener(LOOPBACK, 0, 5);
	port = local_port(listener);
	near = tcp_connect(LOOPBACK, port, "elder");
	local = local_port(near);
	far = tcp_accept(listener, "elder");
	opened = wait_established(port, local);
	blips(0);
	say("{\"what\":\"phase\",\"number\":0}");
	wait_go();

	CHECK(clock_gettime(CLOCK_REALTIME, &wall));
	wall_minus_boot = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - (int64_t)boot_ns();
	if (clock_settime(CLOCK_REALTIME, &wall) == -1) {
		missing("clock that this process may set");
		return 0;
	}
	keeper = start_keeper(restore);
	wall.tv_sec += STEP_S;
	CHECK(clock_settime(CLOCK_REALTIME, &wall));
	say_clock("clock-1");
	blips(1);
	say("{\"what\":\"phase\",\"number\":1}");
	wait_go();
	stop_keeper(keeper);
	say_clock("clock-2");
	blips(2);
	closing = boot_ns();
	send_exactly(near, 2);
	close(near);
	MUST(receive_all(far) == 2);
	close(far);
	life = wait_gone(local, port) - opening;
	say_close("elder", getpid(), local, port, 2, 0, "FIN_WAIT2", 0, closing - opened, life);
	say_close("elder", getpid(), port, local, 0, 2, "LAST_ACK", 0, closing - opened, life);
	open_gate(end);
	status = wait_for(elder);
	say("{\"what\":\"elder\",\"pid\":%d,\"status\":%d,\"least_ns\":%" PRIu64 ",\"most_ns\":%" PRIu64
	    ",\"gone_ns\":%" PRIu64 "}",
	    elder, status, closing - opening, boot_ns() - began, boot_ns());
	return 0;
}
