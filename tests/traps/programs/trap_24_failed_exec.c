/* Trap 24: execs that fail, each for a reason of its own, and some that seccomp answers with death. Each case is a
 * process that tries once and ends with a code of its own. */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "trap.h"

#define EXIT_CODE 24
#define NO_AT (-1) /* execve instead of an execveat */

/* From now on every exec of this process ends as the action says; nothing else is touched. */
static void forbid_exec(unsigned action)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(rules) / sizeof(*rules), rules};

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void attempt_at(const char *label, int at, const char *path, int expected, unsigned action)
{
	struct rlimit none = {0, 0};
	uint64_t before;
	pid_t pid = spawn();
	int status;

	if (pid == 0) {
		char *arguments[] = {"never", "runs", NULL}, *environment[] = {NULL};

		CHECK(setrlimit(RLIMIT_CORE, &none));
		if (action != SECCOMP_RET_ALLOW)
			forbid_exec(action);
		before = boot_ns();
		errno = 0;
		if (at == NO_AT)
			execve(path, arguments, environment);
		else
			syscall(SYS_execveat, at, path, arguments, environment, 0);
		if (errno != expected)
			die(label, __LINE__);
		say("{\"what\":\"failed\",\"label\":\"%s\",\"pid\":%d,\"errno\":%d,\"path\":\"%s\""
		    ",\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}",
		    label, getpid(), expected, path == (char *)8 ? "" : path, before, boot_ns());
		_exit(EXIT_CODE);
	}
	status = wait_for(pid);
	say("{\"what\":\"ended\",\"label\":\"%s\",\"pid\":%d,\"status\":%d}", label, pid, status);
}

static void attempt(const char *label, const char *path, int expected, unsigned action)
{
	attempt_at(label, NO_AT, path, expected, action);
}

int main(void)
{
	const char *directory = scratch();
	char missing_path[64], plain[64], garbage[64], orphan[64], below[128], loop[64];

	start_truth();
	snprintf(missing_path, sizeof(missing_path), "%s/missing", directory);
	snprintf(plain, sizeof(plain), "%s/plain", directory);
	snprintf(garbage, sizeof(garbage), "%s/garbage", directory);
	snprintf(orphan, sizeof(orphan), "%s/orphan", directory);
	snprintf(below, sizeof(below), "%s/below", plain);
	snprintf(loop, sizeof(loop), "%s/loop", directory);
	make_file(plain, "not executable\n", 0644);
	make_file(garbage, "no format anybody knows\n", 0755);
	make_file(orphan, "#!/nonexistent/interpreter\n", 0755);
	CHECK(symlink("loop", loop));

	attempt("missing", missing_path, ENOENT, SECCOMP_RET_ALLOW);
	attempt("not-executable", plain, EACCES, SECCOMP_RET_ALLOW);
	attempt("no-format", garbage, ENOEXEC, SECCOMP_RET_ALLOW);
	attempt("no-interpreter", orphan, ENOENT, SECCOMP_RET_ALLOW);
	attempt("not-a-directory", below, ENOTDIR, SECCOMP_RET_ALLOW);
	attempt("loop", loop, ELOOP, SECCOMP_RET_ALLOW);
	attempt("bad-pointer", (const char *)8, EFAULT, SECCOMP_RET_ALLOW);
	attempt("seccomp-errno", own_path(), EPERM, SECCOMP_RET_ERRNO | EPERM);
	attempt("seccomp-kill", own_path(), 0, SECCOMP_RET_KILL_PROCESS);
	/* A killed call keeps its first argument where the result would be, on arm64. */
	attempt_at("seccomp-kill-at", AT_FDCWD, own_path(), 0, SECCOMP_RET_KILL_PROCESS);
	attempt_at("seccomp-kill-at-0", 0, own_path(), 0, SECCOMP_RET_KILL_PROCESS);

	CHECK(unlink(plain));
	CHECK(unlink(garbage));
	CHECK(unlink(orphan));
	CHECK(unlink(loop));
	CHECK(rmdir(directory));
	return 0;
}
