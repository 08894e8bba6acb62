/* Trap 27: executables without an honest path: a memfd, a file that is deleted before it runs, one that is deleted
 * while it runs, and one on an overlay. Each tells the device and inode of its own /proc/self/exe; the starter tells
 * what stat says from outside. */
#include <sys/mman.h>
#include <sys/mount.h>

#include "trap.h"

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

static void start(const char *label, const char *path, int descriptor)
{
	char proc[64];
	struct stat found;
	struct gate told = new_gate(), leave = new_gate();
	pid_t pid = spawn();

	if (pid == 0) {
		char *arguments[] = {"file", (char *)label, NULL};

		/* Descriptors 100 and 101 are the image's to tell and to wait. */
		CHECK(dup2(told.ends[1], 100));
		CHECK(dup2(leave.ends[0], 101));
		CHECK(setenv(CASE_VARIABLE, label, 1));
		if (descriptor == -1)
			execv(path, arguments);
		else
			syscall(SYS_execveat, descriptor, "", arguments, environ, AT_EMPTY_PATH);
		die(label, __LINE__);
	}
	wait_gate(told);
	snprintf(proc, sizeof(proc), "/proc/%d/exe", pid);
	CHECK(stat(proc, &found));
	say("{\"what\":\"outside\",\"label\":\"%s\",\"pid\":%d,\"path\":\"%s\",\"dev\":\"%u:%u\",\"inode\":%" PRIu64
	    "}",
	    label, pid, path, major(found.st_dev), minor(found.st_dev), (uint64_t)found.st_ino);
	if (strcmp(label, "deleted-later") == 0)
		CHECK(unlink(path));
	open_gate(leave);
	MUST(WEXITSTATUS(wait_for(pid)) == 27);
}

static int image(char **arguments)
{
	struct gate told = {{-1, 100}}, leave = {{101, -1}};
	int listener, handle;

	say_exec(arguments[1], arguments);
	open_gate(told);
	wait_gate(leave);
	/* A connection too: its record has to say the same of the executable. */
	listener = tcp_listener(LOOPBACK, 0, 5);
	handle = tcp_connect(LOOPBACK, local_port(listener), arguments[1]);
	close(handle);
	return 27;
}

static void in_memory(void)
{
	static char block[65536];
	int in = CHECK(open(own_path(), O_RDONLY | O_CLOEXEC)), out = CHECK(memfd_create("trap27-memory", MFD_CLOEXEC));
	ssize_t count;

	while ((count = CHECK(read(in, block, sizeof(block)))) > 0)
		MUST(write(out, block, (size_t)count) == count);
	close(in);
	start("memfd", "memfd:trap27-memory", out);
	close(out);
}

static void on_overlay(const char *directory)
{
	const char *own = own_path(); /* before the mount namespace changes: where it is now */
	char mounted[96], layers[128], options[600], path[160];
	pid_t pid = spawn();

	if (pid != 0) {
		wait_success(pid);
		return;
	}
	CHECK(unshare(CLONE_NEWNS));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(mounted, sizeof(mounted), "%s/tree", directory);
	CHECK(mkdir(mounted, 0755));
	CHECK(mount("tmpfs", mounted, "tmpfs", 0, NULL));
	snprintf(layers, sizeof(layers), "%s/lower", mounted);
	CHECK(mkdir(layers, 0755));
	snprintf(path, sizeof(path), "%s/layered", layers);
	copy_file(own, path, 0755);
	snprintf(layers, sizeof(layers), "%s/upper", mounted);
	CHECK(mkdir(layers, 0755));
	snprintf(layers, sizeof(layers), "%s/work", mounted);
	CHECK(mkdir(layers, 0755));
	snprintf(layers, sizeof(layers), "%s/merged", mounted);
	CHECK(mkdir(layers, 0755));
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", mounted, mounted,
		 mounted);
	if (mount("overlay", layers, "overlay", 0, options) == -1) {
		missing("overlay");
		_exit(0);
	}
	snprintf(path, sizeof(path), "%s/layered", layers);
	start("overlay", path, -1);
	_exit(0);
}

int main(int count, char **arguments)
{
	char directory[64], path[96];
	int file;

	(void)count;
	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		return image(arguments);
	}
	start_truth();
	snprintf(directory, sizeof(directory), "%s", scratch());
	snprintf(path, sizeof(path), "%s/gone", directory);

	in_memory();

	copy_file(own_path(), path, 0755);
	file = CHECK(open(path, O_RDONLY | O_CLOEXEC));
	CHECK(unlink(path));
	start("deleted", path, file);
	close(file);

	copy_file(own_path(), path, 0755);
	start("deleted-later", path, -1);

	on_overlay(directory);
	snprintf(path, sizeof(path), "%s/tree", directory);
	rmdir(path);
	CHECK(rmdir(directory));
	return 0;
}
