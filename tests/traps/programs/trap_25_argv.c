/* Trap 25: argv is memory of the process, and the process may change it. Programs that overwrite their arguments the
 * moment they run, and execs whose arguments are rewritten by another task all the while: what the new image found is
 * what was committed. */
#include <sys/mman.h>

#include "trap.h"

#define ROUNDS 17
#define ARGUMENTS 7
#define LENGTH 60

/* The new image: keeps what it was given, wipes it, then tells. */
static int wiping(char **arguments)
{
	static char kept[ARGUMENTS][LENGTH + 1];
	char *found[ARGUMENTS + 1] = {NULL};

	for (int index = 0; arguments[index] != NULL; index++) {
		size_t length = strlen(arguments[index]);

		MUST(index < ARGUMENTS && length <= LENGTH);
		memcpy(kept[index], arguments[index], length);
		found[index] = kept[index];
		memset(arguments[index], 'X', length);
	}
	say_exec(getenv(CASE_VARIABLE), found);
	return 25;
}

static void fill(char arguments[][LENGTH + 1], int round, char mark)
{
	for (int index = 0; index < ARGUMENTS; index++) {
		memset(arguments[index], mark, LENGTH);
		snprintf(arguments[index], LENGTH, "%d-%d-%c", round, index, mark);
		arguments[index][strlen(arguments[index])] = mark;
		arguments[index][LENGTH] = '\0';
	}
}

int main(int count, char **arguments)
{
	char(*shared)[LENGTH + 1];

	(void)count;
	if (getenv(CASE_VARIABLE) != NULL)
		return wiping(arguments);
	start_truth();
	shared = mmap(NULL, sizeof(char[ARGUMENTS][LENGTH + 1]), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	MUST(shared != MAP_FAILED);
	for (int round = 0; round < 2 * ROUNDS; round++) {
		bool rewritten = round >= ROUNDS; /* the second half has a neighbour that rewrites the shared page */
		pid_t pid, neighbour = 0;

		fill(shared, round, 'a');
		if (rewritten) {
			neighbour = spawn();
			if (neighbour == 0)
				for (unsigned turn = 0;; turn++) {
					for (int index = 0; index < ARGUMENTS; index++)
						memset(shared[index] + 20, turn % 2 ? 'b' : 'c', LENGTH - 20);
				}
		}
		pid = spawn();
		if (pid == 0) {
			char *given[ARGUMENTS + 1] = {NULL};

			for (int index = 0; index < ARGUMENTS; index++)
				given[index] = shared[index];
			CHECK(setenv(CASE_VARIABLE, rewritten ? "rewritten" : "wiped", 1));
			execv(own_path(), given);
			die("execv", __LINE__);
		}
		MUST(WEXITSTATUS(wait_for(pid)) == 25);
		if (rewritten) {
			CHECK(kill(neighbour, SIGKILL));
			wait_for(neighbour);
		}
	}
	return 0;
}
