/* Trap 20: a pid comes again. A process connects and ends, then another with the very same pid executes, connects and
 * ends, and a third. The pid is asked for with clone3's set_tid (Linux 5.5), so that nothing has to wrap. */
#include <linux/sched.h>

#include "trap.h"

#define LIVES 3

/* One life: 0 is the fork itself, later ones execute this program under another name. */
static void life(int number, uint16_t port)
{
	char number_text[16], port_text[16];
	char *arguments[] = {"reborn", number_text, port_text, NULL};

	snprintf(number_text, sizeof(number_text), "%d", number);
	snprintf(port_text, sizeof(port_text), "%u", port);
	CHECK(setenv(CASE_VARIABLE, "reborn", 1));
	execv(own_path(), arguments);
	die("execv", __LINE__);
}

static int reborn(char **arguments)
{
	int number = atoi(arguments[1]), handle;

	say_exec("reborn", arguments);
	handle = tcp_connect(LOOPBACK, (uint16_t)atoi(arguments[2]), "reborn");
	send_exactly(handle, (size_t)number + 1);
	close(handle);
	return number + 1;
}

static pid_t with_pid(pid_t wanted)
{
	struct clone_args request = {.exit_signal = SIGCHLD};
	pid_t pid;

	if (wanted != 0) {
		request.set_tid = (uint64_t)(uintptr_t)&wanted;
		request.set_tid_size = 1;
	}
	pid = (pid_t)syscall(SYS_clone3, &request, sizeof(request));
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

int main(int count, char **arguments)
{
	int listener;
	pid_t pid = 0;

	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		return count == 3 ? reborn(arguments) : 2;
	}
	start_truth();
	listener = tcp_listener(LOOPBACK, 0, 5);
	for (int number = 0; number < LIVES; number++) {
		int accepted, status;
		pid_t got = with_pid(pid);

		if (got == 0)
			life(number, local_port(listener));
		if (got == -1 && (errno == ENOSYS || errno == EINVAL)) {
			missing("clone3 set_tid");
			return 0;
		}
		CHECK(got);
		MUST(pid == 0 || got == pid);
		pid = got;
		accepted = tcp_accept(listener, "reborn");
		MUST(receive_all(accepted) == (size_t)number + 1);
		close(accepted);
		status = wait_for(pid);
		MUST(WIFEXITED(status) && WEXITSTATUS(status) == number + 1);
		say("{\"what\":\"life\",\"pid\":%d,\"number\":%d,\"status\":%d,\"gone_ns\":%" PRIu64 "}", pid, number,
		    status, boot_ns());
		/* An entity is told apart by its start in ticks of 10 ms: let some pass. */
		sleep_ms(50);
	}
	return 0;
}
