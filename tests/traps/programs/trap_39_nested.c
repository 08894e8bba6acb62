/* Trap 39: scratch memory of a CPU that is overwritten while a probe still uses it. Execs with long arguments on every
 * CPU at once, some of them by real-time processes that push the others aside, while connections and timers keep the
 * softirqs busy. The last argument is a checksum (FNV-1a, 64 bits) of those between the second and it, each with its
 * end mark. */
#include "trap.h"

#define RUNNERS 4
#define EXECS 101
#define PARTS 16

static uint64_t checksum(char *const *parts, int count)
{
	uint64_t sum = 0xcbf29ce484222325u;

	for (int part = 0; part < count; part++)
		for (const char *at = parts[part];; at++) {
			sum = (sum ^ (unsigned char)*at) * 0x100000001b3u;
			if (*at == '\0')
				break;
		}
	return sum;
}

static void runner(int which)
{
	struct sched_param urgent = {.sched_priority = 1};

	pin(which / 2);
	if (which % 2 == 0)
		(void)sched_setscheduler(0, SCHED_FIFO, &urgent); /* as much preemption as this kernel gives */
	for (int number = 0; number < EXECS; number++) {
		static char parts[PARTS][128];
		char which_text[16], number_text[16], sum_text[32];
		char *arguments[PARTS + 5] = {"storm", which_text, number_text};
		pid_t pid;
		int status;

		snprintf(which_text, sizeof(which_text), "%d", which);
		snprintf(number_text, sizeof(number_text), "%d", number);
		for (int part = 0; part < PARTS; part++) {
			int length = 40 + (number * 7 + part * 13 + which) % 60;

			for (int at = 0; at < length; at++)
				parts[part][at] = (char)('a' + (number * 31 + part * 17 + at + which * 5) % 26);
			parts[part][length] = '\0';
			arguments[3 + part] = parts[part];
		}
		snprintf(sum_text, sizeof(sum_text), "%016" PRIx64, checksum(arguments + 1, PARTS + 2));
		arguments[3 + PARTS] = sum_text;
		arguments[4 + PARTS] = NULL;
		pid = spawn();
		if (pid == 0) {
			CHECK(setenv(CASE_VARIABLE, "storm", 1));
			execv(own_path(), arguments);
			die("execv", __LINE__);
		}
		status = wait_for(pid);
		MUST(WEXITSTATUS(status) == 39);
		say("{\"what\":\"storm\",\"runner\":%d,\"number\":%d,\"pid\":%d,\"checksum\":\"%s\"}", which, number,
		    pid, sum_text);
		if (number % 8 == 7)
			sleep_ms(1); /* let the ones of lower priority have a turn */
	}
	_exit(0);
}

static void ignore(int signal)
{
	(void)signal;
}

/* Connections on one CPU, with a timer that interrupts them a thousand times a second; ends when the gate's other end
 * is gone. */
static void maker(int cpu, struct gate over)
{
	struct itimerval often = {{0, 1000}, {0, 1000}};
	struct sigaction action = {.sa_handler = ignore, .sa_flags = SA_RESTART};
	struct linger now = {1, 0};
	struct address address;
	int listener, made = 0;

	close(over.ends[1]);
	own_netns();
	pin(cpu);
	listener = tcp_bound(LOOPBACK, 0);
	CHECK(listen(listener, 5));
	address = address_of(LOOPBACK, local_port(listener));
	CHECK(sigaction(SIGVTALRM, &action, NULL));
	CHECK(setitimer(ITIMER_VIRTUAL, &often, NULL));
	for (;;) {
		struct pollfd end = {over.ends[0], POLLIN, 0};
		int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC), accepted;

		CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
		accepted = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		send_exactly(handle, 100);
		CHECK(setsockopt(handle, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
		close(handle);
		close(accepted);
		made++;
		if (poll(&end, 1, made % 16 ? 0 : 1) == 1)
			break;
	}
	say("{\"what\":\"made\",\"pid\":%d,\"connections\":%d}", getpid(), made);
	_exit(0);
}

int main(void)
{
	struct gate over;
	pid_t runners[RUNNERS], makers[2];

	if (getenv(CASE_VARIABLE) != NULL)
		return 39;
	start_truth();
	over = new_gate();
	for (int which = 0; which < 2; which++) {
		makers[which] = spawn();
		if (makers[which] == 0)
			maker(which, over);
	}
	for (int which = 0; which < RUNNERS; which++) {
		runners[which] = spawn();
		if (runners[which] == 0) {
			close(over.ends[0]);
			close(over.ends[1]);
			runner(which);
		}
	}
	for (int which = 0; which < RUNNERS; which++)
		wait_success(runners[which]);
	close(over.ends[1]);
	for (int which = 0; which < 2; which++)
		wait_success(makers[which]);
	return 0;
}
