/* Trap 34: a connection that is open while the machine sleeps for some seconds. A clock that stands still meanwhile
 * (CLOCK_MONOTONIC) knows nothing of it; CLOCK_BOOTTIME does. */
#include "trap.h"

#define SLEEP_S "6" /* going to sleep takes some of it */
#define ALARM "/sys/class/rtc/rtc0/wakealarm"
#define STATE "/sys/power/state"
#define ASLEEP "sleep from which a clock wakes it"
/* Suspended to idle, the clocks go on where the kernel has no idle state for that (s2idle_enter() in
 * kernel/power/suspend.c). */
#define STOPPED "sleep in which the monotonic clock stands still"

/* Below 0 where it has not slept yet: the clocks are read one after the other. */
static int64_t asleep(void)
{
	return (int64_t)(boot_ns() - clock_ns(CLOCK_MONOTONIC));
}

static bool try_write(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	bool good = file != -1 && write(file, text, strlen(text)) == (ssize_t)strlen(text);

	if (file != -1)
		close(file);
	return good;
}

/* Suspends, in the way that the machine is made for, and returns how long it slept by its clocks; 0 where it can't,
 * and then what it lacks is in `lacking`. */
static uint64_t nap(const char **lacking)
{
	char states[128] = "";
	const char *state;
	int file = open(STATE, O_RDONLY | O_CLOEXEC);
	int64_t before = asleep(), after;

	*lacking = ASLEEP;
	if (file == -1 || read(file, states, sizeof(states) - 1) <= 0)
		return 0;
	close(file);
	/* "mem" is what /sys/power/mem_sleep chose; a machine may not wake from the other ways. */
	state = strstr(states, "mem") != NULL ? "mem" : strstr(states, "freeze") != NULL ? "freeze" : NULL;
	/* An alarm that is set already is somebody's: writing another one is refused. */
	if (state == NULL || !try_write(ALARM, "+" SLEEP_S) || !try_write(STATE, state))
		return 0;
	after = asleep();
	*lacking = STOPPED;
	return after - before > 1000000000 ? (uint64_t)(after - before) : 0;
}

int main(void)
{
	uint64_t opening, opened, closing, life, slept;
	int listener, near, far, status;
	const char *lacking;
	uint16_t local, port;
	pid_t late;

	if (getenv(CASE_VARIABLE) != NULL)
		return 3;
	start_truth();
	pin(0); /* the one CPU that does not go offline for it */
	own_netns();
	listener = tcp_listener(LOOPBACK, 0, 5);
	port = local_port(listener);
	opening = boot_ns();
	near = tcp_connect(LOOPBACK, port, "asleep");
	local = local_port(near);
	far = tcp_accept(listener, "asleep");
	opened = wait_established(port, local);
	slept = nap(&lacking);
	if (slept == 0) {
		missing(lacking);
		return 0;
	}
	say_clock("awake");
	closing = boot_ns();
	CHECK(setenv(CASE_VARIABLE, "blip", 1));
	late = spawn();
	if (late == 0) {
		execl(own_path(), "blip", NULL);
		die("execl", __LINE__);
	}
	status = wait_for(late);
	say("{\"what\":\"blip\",\"pid\":%d,\"status\":%d,\"before_ns\":%" PRIu64 ",\"gone_ns\":%" PRIu64 "}", late, status,
	    closing, boot_ns());
	close(near);
	MUST(receive_all(far) == 0);
	close(far);
	life = wait_gone(local, port) - opening;
	say_close("asleep", getpid(), local, port, 0, 0, "FIN_WAIT2", 0, closing - opened, life);
	say_close("asleep", getpid(), port, local, 0, 0, "LAST_ACK", 0, closing - opened, life);
	say("{\"what\":\"slept\",\"ns\":%" PRIu64 "}", slept);
	return 0;
}
