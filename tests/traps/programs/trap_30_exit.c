/* Trap 30: processes end in many ways, and each ends once. The leader thread goes first and another ends the process;
 * the last thread just returns; kill -9, also when the leader is gone already; a signal that a thread brings on itself.
 */
#include <pthread.h>

#include "trap.h"

static struct gate ready;

/* Sleeps for a while after the leader is gone, then ends as its case wants. */
static void *survivor(void *what)
{
	sleep_ms(100);
	if (strcmp(what, "leader-first") == 0)
		_exit(7);
	if (strcmp(what, "segv") == 0)
		CHECK((int)syscall(SYS_tgkill, getpid(), own_tid(), SIGSEGV));
	if (strcmp(what, "kill-leaderless") == 0) {
		open_gate(ready);
		for (;;)
			sleep_ms(1000);
	}
	return NULL; /* "last-thread": with it the process ends; whose code counts changed in Linux 5.17, the wait
			status tells */
}

static void thread_case(const char *label)
{
	struct rlimit none = {0, 0};
	pthread_t thread;
	uint64_t leaving;

	CHECK(prctl(PR_SET_PDEATHSIG, 0)); /* it would come when the leader leaves */
	CHECK(setrlimit(RLIMIT_CORE, &none));
	limit_life(LIFETIME_S);
	MUST(pthread_create(&thread, NULL, survivor, (void *)label) == 0);
	leaving = boot_ns();
	say("{\"what\":\"leader-leaves\",\"label\":\"%s\",\"pid\":%d,\"before_ns\":%" PRIu64 "}", label, getpid(),
	    leaving);
	syscall(SYS_exit, 33); /* this thread only */
}

static void one(const char *label, bool threads, int signal)
{
	uint64_t before, after;
	int status;
	pid_t pid = spawn();

	if (pid == 0) {
		if (threads)
			thread_case(label);
		open_gate(ready);
		for (;;)
			sleep_ms(1000);
	}
	before = boot_ns();
	if (signal != 0) {
		wait_gate(ready);
		before = boot_ns();
		CHECK(kill(pid, signal));
	}
	status = wait_for(pid);
	after = boot_ns();
	say("{\"what\":\"ended\",\"label\":\"%s\",\"pid\":%d,\"status\":%d,\"before_ns\":%" PRIu64
	    ",\"gone_ns\":%" PRIu64 "}",
	    label, pid, status, before, after);
}

int main(void)
{
	start_truth();
	ready = new_gate();
	one("leader-first", true, 0);
	one("last-thread", true, 0);
	one("segv", true, 0);
	one("kill", false, SIGKILL);
	one("kill-leaderless", true, SIGKILL);
	one("term", false, SIGTERM);
	return 0;
}
