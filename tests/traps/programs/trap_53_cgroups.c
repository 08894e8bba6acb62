/* Trap 53: whose a process is. Control groups of version 2 with the names that container runtimes give them, and all the
 * ways into one: before an exec, without one, by being born there, and with a namespace that hides where it is. */
#include "trap.h"

#include <limits.h>
#include <linux/sched.h>
#include <sys/mount.h>

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define ID "3f2a1b4c5d6e70893f2a1b4c5d6e70893f2a1b4c5d6e70893f2a1b4c5d6e7089"
#define UID "0ad5f9a2-6a7e-4c1c-9b55-1d2c3b4a5f60"
#define DEEP 30 /* levels */

/* Beyond the version of struct clone_args that the oldest headers have. */
struct clone_into {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static char root[PATH_MAX];

static void path_of(char *to, const char *group)
{
	MUST(snprintf(to, PATH_MAX, "%s/%s", root, group) < PATH_MAX);
}

/* Makes a group and those above it. */
static void make_group(const char *group)
{
	char path[PATH_MAX];

	path_of(path, group);
	for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')) != NULL; *at++ = '/') {
		*at = '\0';
		MUST(mkdir(path, 0755) == 0 || errno == EEXIST);
	}
	CHECK(mkdir(path, 0755));
}

/* Removes a group and those above it that are empty now. */
static void remove_group(const char *group)
{
	char path[PATH_MAX];

	path_of(path, group);
	while (strlen(path) > strlen(root) && rmdir(path) == 0)
		*strrchr(path, '/') = '\0';
}

static void enter(const char *group)
{
	char path[PATH_MAX], pid[16];

	path_of(path, group);
	strcat(path, "/cgroup.procs");
	snprintf(pid, sizeof(pid), "%d", getpid());
	write_file(path, pid);
}

static void say_member(const char *label, const char *group)
{
	char path[PATH_MAX];
	struct stat found;

	path_of(path, group);
	CHECK(stat(path, &found));
	say("{\"what\":\"member\",\"label\":\"%s\",\"pid\":%d,\"path\":\"/%s\",\"id\":%" PRIu64 "}", label, getpid(), group,
	    (uint64_t)found.st_ino);
}

static void become(const char *label)
{
	char *arguments[] = {"member", (char *)label, NULL};

	CHECK(setenv(CASE_VARIABLE, label, 1));
	execv(own_path(), arguments);
	die("execv", __LINE__);
}

/* A child that goes into the group and executes there. */
static void executed(const char *label, const char *group, int namespace)
{
	pid_t pid = spawn();

	if (pid == 0) {
		enter(group);
		say_member(label, group);
		if (namespace != 0 && unshare(namespace) == -1) {
			missing("cgroup namespaces");
			_exit(0);
		}
		become(label);
	}
	wait_success(pid);
}

/* What a member does that executes nothing. */
static void connects(const char *label, const char *group, uint16_t port)
{
	say_member(label, group);
	close(tcp_connect(LOOPBACK, port, label));
	_exit(0);
}

/* A child that goes into the group and executes nothing. */
static void moved(const char *label, const char *group, uint16_t port)
{
	pid_t pid = spawn();

	if (pid == 0) {
		enter(group);
		connects(label, group, port);
	}
	wait_success(pid);
}

/* A child that is made in the group: CLONE_INTO_CGROUP, since Linux 5.7. */
static void born(const char *label, const char *group, uint16_t port)
{
	struct clone_into how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
	char path[PATH_MAX];
	pid_t pid;

	path_of(path, group);
	how.cgroup = (uint64_t)CHECK(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
	pid = (pid_t)syscall(SYS_clone3, &how, sizeof(how));
	if (pid == -1) {
		missing("CLONE_INTO_CGROUP");
		return;
	}
	if (pid == 0)
		connects(label, group, port);
	wait_success(pid);
	close((int)how.cgroup);
}

int main(void)
{
	char docker[256], pod[256], silent[256], deep[256 + 4 * DEEP];
	int listener;
	uint16_t port;

	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		return 0;
	}
	start_truth();
	CHECK(unshare(CLONE_NEWNS));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	strcpy(root, scratch());
	if (mount("cgroup2", root, "cgroup2", 0, NULL) == -1) {
		missing("cgroup v2");
		rmdir(root);
		return 0;
	}
	listener = tcp_listener(LOOPBACK, 0, 8);
	port = local_port(listener);
	snprintf(docker, sizeof(docker), "trap53-%d.slice/docker-" ID ".scope", getpid());
	snprintf(pod, sizeof(pod), "trap53-%d/kubepods/burstable/pod" UID "/crio-" ID, getpid());
	snprintf(silent, sizeof(silent), "trap53-%d/silent", getpid());
	snprintf(deep, sizeof(deep), "trap53-%d", getpid());
	for (int level = 1; level < DEEP - 1; level++)
		sprintf(deep + strlen(deep), "/d%d", level);
	strcat(deep, "/docker-" ID ".scope");
	make_group(docker);
	make_group(pod);
	make_group(silent);
	make_group(deep);
	executed("docker", docker, 0);
	executed("pod", pod, 0);
	executed("hidden", docker, CLONE_NEWCGROUP);
	executed("deep", deep, 0);
	moved("moved", pod, port);
	moved("silent", silent, port);
	born("born", docker, port);
	close(listener);
	remove_group(docker);
	remove_group(pod);
	remove_group(silent);
	remove_group(deep);
	CHECK(umount2(root, MNT_DETACH));
	CHECK(rmdir(root));
	return 0;
}
