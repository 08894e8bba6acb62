/* Trap 29: the parent now is not the parent at the fork. A vforked child that executes, a child made with CLONE_PARENT,
 * and an orphan that a subreaper took before it executed. This program is the subreaper. */
#include "trap.h"

static int told(char **arguments)
{
	say_exec(getenv(CASE_VARIABLE), arguments);
	return 29;
}

static void become(const char *label)
{
	char *arguments[] = {"child", (char *)label, NULL};

	setenv(CASE_VARIABLE, label, 1);
	execv(own_path(), arguments);
	die("execv", __LINE__);
}

static void say_lineage(const char *label, pid_t pid, pid_t forked_by, pid_t lineage)
{
	say("{\"what\":\"lineage\",\"label\":\"%s\",\"pid\":%d,\"forked_by\":%d,\"lineage\":%d}", label, pid, forked_by,
	    lineage);
}

/* The child of vfork runs in the parent's memory until its exec. */
static void with_vfork(void)
{
	const char *image = own_path();
	char *arguments[] = {"child", "vfork", NULL};
	pid_t pid, caller = spawn();

	if (caller != 0) {
		wait_success(caller);
		return;
	}
	CHECK(setenv(CASE_VARIABLE, "vfork", 1));
	pid = vfork();
	if (pid == 0) {
		execv(image, arguments);
		_exit(2);
	}
	say_lineage("vfork", pid, getpid(), getpid());
	MUST(WEXITSTATUS(wait_for(pid)) == 29);
	_exit(0);
}

/* The new process is a sibling of the one that made it: its parent is this program from the first moment. */
static void with_clone_parent(void)
{
	struct gate made = new_gate();
	pid_t pid = 0, caller = spawn();

	if (caller == 0) {
		pid = (pid_t)CHECK(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
		if (pid == 0)
			become("clone-parent");
		MUST(write(made.ends[1], &pid, sizeof(pid)) == sizeof(pid));
		_exit(0);
	}
	MUST(read(made.ends[0], &pid, sizeof(pid)) == sizeof(pid));
	say_lineage("clone-parent", pid, caller, getpid());
	wait_success(caller);
	MUST(WEXITSTATUS(wait_for(pid)) == 29);
}

/* The one in the middle is gone when the child executes. */
static void orphaned(void)
{
	struct gate made = new_gate();
	pid_t pid = 0, reaper = getpid(), caller = spawn();

	if (caller == 0) {
		pid = CHECK(fork());
		if (pid == 0) {
			for (int turn = 0; getppid() != reaper && turn < 5000; turn++)
				sleep_ms(1);
			MUST(getppid() == reaper);
			become("orphan");
		}
		MUST(write(made.ends[1], &pid, sizeof(pid)) == sizeof(pid));
		_exit(0);
	}
	MUST(read(made.ends[0], &pid, sizeof(pid)) == sizeof(pid));
	say_lineage("orphan", pid, caller, caller);
	wait_success(caller);
	MUST(WEXITSTATUS(wait_for(pid)) == 29);
}

int main(int count, char **arguments)
{
	(void)count;
	if (getenv(CASE_VARIABLE) != NULL)
		return told(arguments);
	start_truth();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1));
	with_vfork();
	with_clone_parent();
	orphaned();
	return 0;
}
