/* Trap 42: names that break parsers and terminals: line ends, escape sequences, bytes that are no UTF-8, in the name,
 * the path, the working directory and the arguments, and arguments of 4 KiB, of 2 MiB, and ten thousand of them. */
#include "trap.h"

#define IMAGE "im\nage\x1b[2J\xc3(\xff"
#define PLACE "pl\nace\x1b]0;\xfe\xe2\x82"
#define NAME "nl\n\x1b[31m\xff\xfe"

static char directory[64], place[96], image[160];

/* What the new image has to say; the large ones only count. */
static int told(int count, char **arguments)
{
	const char *label = getenv(CASE_VARIABLE);
	size_t total = 0;

	for (int index = 0; index < count; index++)
		total += strlen(arguments[index]) + 1;
	if (total < 6144)
		say_exec(label, arguments);
	say("{\"what\":\"counted\",\"label\":\"%s\",\"pid\":%d,\"count\":%d,\"total\":%zu}", label, getpid(), count,
	    total);
	return 42;
}

static void run(const char *label, const char *path, char **arguments)
{
	struct rlimit stack = {64 << 20, 64 << 20};
	pid_t pid = spawn();
	int status;

	if (pid == 0) {
		/* A quarter of the stack, and at most 6 MiB, may be arguments. */
		CHECK(setrlimit(RLIMIT_STACK, &stack));
		CHECK(setenv(CASE_VARIABLE, label, 1));
		execv(path, arguments);
		die(label, __LINE__);
	}
	status = wait_for(pid);
	if (WEXITSTATUS(status) != 42)
		die(label, __LINE__);
}

static char *filled(char letter, size_t length)
{
	char *text = malloc(length + 1);

	MUST(text != NULL);
	memset(text, letter, length);
	text[length] = '\0';
	return text;
}

static void hostile_name(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), accepted, status;
	pid_t pid = spawn();

	if (pid == 0) {
		int handle;

		CHECK(prctl(PR_SET_NAME, NAME));
		handle = tcp_connect(LOOPBACK, local_port(listener), "name");
		close(handle);
		_exit(42);
	}
	accepted = tcp_accept(listener, "name");
	close(accepted);
	status = wait_for(pid);
	MUST(WEXITSTATUS(status) == 42);
	say("{\"what\":\"named\",\"label\":\"name\",\"pid\":%d,\"comm_hex\":\"%s\"}", pid, hex(NAME, strlen(NAME)));
	close(listener);
}

static void hostile_paths(void)
{
	char *arguments[] = {"paths", NULL};
	char here[4096];

	MUST(getcwd(here, sizeof(here)) != NULL);
	CHECK(chdir(place));
	run("path", image, arguments);
	CHECK(chdir(here));
}

static void hostile_arguments(void)
{
	char *arguments[] = {"args",
			     "line\nend\r",
			     "\x1b[31mred\x1b]0;title\x07",
			     "\xff\xfe\xc3(",
			     "",
			     "quote\"back\\slash",
			     "\xe2\x80\xae",
			     "\xed\xa0\x80",
			     "caf\xc3\xa9",
			     "\x7f\xc2\x9b"
			     "31m",
			     NULL};

	run("arguments", own_path(), arguments);
}

static void long_arguments(void)
{
	char *plain[] = {"plain", filled('a', 4096), "after", NULL},
	     *control[] = {"control", filled('\x01', 5000), "after", NULL},
	     *invalid[] = {"invalid", filled('\xff', 5000), "after", NULL}, *huge[22],
	     **many = calloc(10008, sizeof(char *));

	run("long", own_path(), plain);
	run("long-control", own_path(), control);
	run("long-invalid", own_path(), invalid);
	huge[0] = "huge";
	for (int index = 1; index <= 20; index++)
		huge[index] = filled((char)('A' + index), 104857);
	huge[21] = NULL;
	run("huge", own_path(), huge);
	MUST(many != NULL);
	many[0] = "many";
	for (int index = 1; index < 10007; index++)
		many[index] = "x";
	run("many", own_path(), many);
}

int main(int count, char **arguments)
{
	if (getenv(CASE_VARIABLE) != NULL)
		return told(count, arguments);
	start_truth();
	snprintf(directory, sizeof(directory), "%s", scratch());
	snprintf(place, sizeof(place), "%s/%s", directory, PLACE);
	snprintf(image, sizeof(image), "%s/%s", directory, IMAGE);
	CHECK(mkdir(place, 0755));
	copy_file(own_path(), image, 0755);
	hostile_name();
	hostile_paths();
	hostile_arguments();
	long_arguments();
	CHECK(unlink(image));
	CHECK(rmdir(place));
	CHECK(rmdir(directory));
	return 0;
}
