/* Trap 23: a thread that is not the leader executes. The new image has the leader's id; the thread's own id is gone, as
 * is every other thread, and none of them exits as a process. */
#include <pthread.h>

#include "trap.h"

static void *idle(void *nothing)
{
	for (;;)
		sleep_ms(1000);
	return nothing;
}

static void *executing(void *nothing)
{
	char *arguments[] = {"after", "the", "exec", NULL};

	CHECK(prctl(PR_SET_NAME, "executor"));
	say("{\"what\":\"thread\",\"pid\":%d,\"tid\":%d,\"before_ns\":%" PRIu64 "}", getpid(), own_tid(), boot_ns());
	CHECK(setenv(CASE_VARIABLE, "thread-exec", 1));
	execv(own_path(), arguments);
	die("execv", __LINE__);
	return nothing;
}

int main(int count, char **arguments)
{
	pthread_t threads[4];
	pid_t pid;
	int status;

	(void)count;
	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		say_exec("thread-exec", arguments);
		return 23;
	}
	start_truth();
	pid = spawn();
	if (pid == 0) {
		/* The signal at the parent's death would come when the thread that asked for it ends. */
		CHECK(prctl(PR_SET_PDEATHSIG, 0));
		for (int index = 0; index < 3; index++)
			MUST(pthread_create(&threads[index], NULL, idle, NULL) == 0);
		MUST(pthread_create(&threads[3], NULL, executing, NULL) == 0);
		for (;;)
			sleep_ms(1000);
	}
	status = wait_for(pid);
	MUST(WIFEXITED(status) && WEXITSTATUS(status) == 23);
	say("{\"what\":\"ended\",\"pid\":%d,\"status\":%d,\"gone_ns\":%" PRIu64 "}", pid, status, boot_ns());
	return 0;
}
