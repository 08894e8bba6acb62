/* Trap 49: runs a command as the first process of a pid namespace with its own /proc, as its only child, and ends as it
 * did. Not a program that tells a truth: the tracer itself is the command. */
#include "trap.h"

#include <sys/mount.h>

int main(int count, char **arguments)
{
	pid_t pid;
	int status;

	MUST(count > 1);
	CHECK(unshare(CLONE_NEWPID | CLONE_NEWNS));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	pid = spawn();
	if (pid == 0) {
		CHECK(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
		execvp(arguments[1], arguments + 1);
		die(arguments[1], __LINE__);
	}
	status = wait_for(pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
