/* Trap 26: what is executed is not what is named. Cases: a script with a #! line, one whose interpreter is a script, a
 * file that binfmt_misc hands to an interpreter, execveat of a descriptor with no path, and fexecve of a script. This
 * program is its own interpreter. */
#include <sys/mount.h>

#include "trap.h"

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

#define BINFMT "/proc/sys/fs/binfmt_misc"
#define ENTRY "trap26"
#define MAGIC "TRAP26MAGIC"

static char directory[64], interpreter[96];

/* Runs the file as asked and waits; the image tells about itself, the caller what it asked for. */
static void run(const char *label, const char *path, int descriptor)
{
	char text[16];
	char *arguments[] = {"given", "one", "two", NULL};
	pid_t pid = spawn();

	if (pid == 0) {
		CHECK(setenv(CASE_VARIABLE, label, 1));
		if (descriptor == -1)
			execv(path, arguments);
		else
			syscall(SYS_execveat, descriptor, "", arguments, environ, AT_EMPTY_PATH);
		die(label, __LINE__);
	}
	if (WEXITSTATUS(wait_for(pid)) != 26)
		die(label, __LINE__);
	snprintf(text, sizeof(text), "%d", descriptor);
	say("{\"what\":\"asked\",\"label\":\"%s\",\"pid\":%d,\"path\":\"%s\",\"descriptor\":%d,\"interpreter\":\"%s\"}",
	    label, pid, path, descriptor, interpreter);
}

static void script(void)
{
	char path[96], line[128];

	snprintf(path, sizeof(path), "%s/script", directory);
	snprintf(line, sizeof(line), "#!%s interpreting\n", interpreter);
	make_file(path, line, 0755);
	run("script", path, -1);
}

static void nested(void)
{
	char path[96], line[128];

	snprintf(path, sizeof(path), "%s/nested", directory);
	snprintf(line, sizeof(line), "#!%s/script\n", directory);
	make_file(path, line, 0755);
	run("nested", path, -1);
	CHECK(unlink(path));
}

static void descriptor_of_program(void)
{
	int file = CHECK(open(interpreter, O_RDONLY | O_CLOEXEC));

	run("execveat", interpreter, file);
	close(file);
}

static void descriptor_of_script(void)
{
	char path[96];
	int file;

	snprintf(path, sizeof(path), "%s/script", directory);
	file = CHECK(open(path, O_RDONLY)); /* no CLOEXEC: the interpreter opens it by its number */
	run("fexecve-script", path, file);
	close(file);
	CHECK(unlink(path));
}

/* Registered for the whole system while it runs, under a magic that no other file has. */
static void misc(void)
{
	char path[96], rule[256];
	int control, status;
	pid_t pid = spawn();

	if (pid != 0) {
		status = wait_for(pid);
		MUST(status == 0);
		return;
	}
	/* The mount is in a mount namespace of its own, and only where there is none. */
	CHECK(unshare(CLONE_NEWNS));
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	if (access(BINFMT "/register", F_OK) == -1 && mount("binfmt_misc", BINFMT, "binfmt_misc", 0, NULL) == -1) {
		missing("binfmt_misc");
		_exit(0);
	}
	snprintf(path, sizeof(path), "%s/foreign", directory);
	make_file(path, MAGIC " and more\n", 0755);
	snprintf(rule, sizeof(rule), ":" ENTRY ":M::" MAGIC "::%s:", interpreter);
	if (access(BINFMT "/" ENTRY, F_OK) == 0)
		write_file(BINFMT "/" ENTRY, "-1"); /* left by one that was killed */
	write_file(BINFMT "/register", rule);
	pid = spawn();
	if (pid == 0) {
		run("binfmt-misc", path, -1);
		_exit(0);
	}
	status = wait_for(pid);
	control = CHECK(open(BINFMT "/" ENTRY, O_WRONLY | O_CLOEXEC));
	MUST(write(control, "-1", 2) == 2);
	CHECK(unlink(path));
	_exit(status != 0);
}

int main(int count, char **arguments)
{
	(void)count;
	if (getenv(CASE_VARIABLE) != NULL) {
		say_exec(getenv(CASE_VARIABLE), arguments);
		return 26;
	}
	start_truth();
	snprintf(directory, sizeof(directory), "%s", scratch());
	snprintf(interpreter, sizeof(interpreter), "%s/interpreter", directory);
	copy_file(own_path(), interpreter, 0755);
	script();
	nested();
	misc();
	descriptor_of_program();
	descriptor_of_script();
	CHECK(unlink(interpreter));
	CHECK(rmdir(directory));
	return 0;
}
