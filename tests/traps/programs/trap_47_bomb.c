/* Trap 47: one user's fork bomb, and meanwhile another user's programs, one after the other. The bomb is bounded: four
 * processes with 751 children each, of which every seventh executes a program with long arguments. All of it begins when
 * a line comes on standard input. Where the machine is slow the storm is, so the other user is slower by the patience of
 * the tests: between the rates of both there is room for a budget. */
#include "trap.h"

#define STORMS 4
#define CHILDREN 751
#define EXECUTES 7	/* of so many one */
#define AT_ONCE 8
#define QUIET 101
#define STORM_USER 64047
#define QUIET_USER 64048
#define ARGUMENT 9000
#define PAUSE_MS 25	/* of the other user, between two programs, times the patience */

static void become(uid_t user)
{
	CHECK(setresgid(user, user, user));
	CHECK(setresuid(user, user, user));
}

/* Not by its path, which may lead through directories that are not this user's to enter. */
static void execute(char *name, char *argument)
{
	char *given[] = {name, argument, NULL};

	execv("/proc/self/exe", given);
	die("execv", __LINE__);
}

static void storm(void)
{
	static char argument[ARGUMENT + 1];
	int waiting = 0;

	memset(argument, 'x', ARGUMENT);
	become(STORM_USER);
	for (int number = 0; number < CHILDREN; number++) {
		if (spawn() == 0) {
			if (number % EXECUTES == 0)
				execute("storm", argument);
			_exit(0);
		}
		if (++waiting == AT_ONCE) {
			while (waiting) {
				CHECK(wait(NULL));
				waiting--;
			}
			sleep_ms(20);
		}
	}
	while (waiting--)
		CHECK(wait(NULL));
	_exit(0);
}

static void quiet(void)
{
	become(QUIET_USER);
	for (int number = 0; number < QUIET; number++) {
		char text[16];
		pid_t pid;

		snprintf(text, sizeof(text), "%d", number);
		pid = spawn();
		if (pid == 0)
			execute("quiet", text);
		wait_success(pid);
		say("{\"what\":\"quiet\",\"pid\":%d,\"number\":%d,\"parent\":%d}", pid, number, getpid());
		sleep_ms(PAUSE_MS * patience());
	}
	_exit(0);
}

int main(int count, char **arguments)
{
	int executed = STORMS * ((CHILDREN + EXECUTES - 1) / EXECUTES);
	pid_t pids[STORMS + 1];

	if (count == 2 && (strcmp(arguments[0], "storm") == 0 || strcmp(arguments[0], "quiet") == 0))
		return 0;
	start_truth();
	say("{\"what\":\"users\",\"storm\":%d,\"quiet\":%d}", STORM_USER, QUIET_USER);
	wait_go();
	for (int which = 0; which <= STORMS; which++) {
		pids[which] = spawn();
		if (pids[which] == 0) {
			if (which < STORMS)
				storm();
			quiet();
		}
	}
	for (int which = 0; which <= STORMS; which++)
		wait_success(pids[which]);
	/* The processes that make the storm were forked by root, and end as that user. */
	say("{\"what\":\"storm\",\"fork\":%d,\"exec\":%d,\"exit\":%d}", STORMS * CHILDREN, executed,
	    STORMS * (CHILDREN + 1));
	return 0;
}
