/* Trap 46: a CPU is taken offline and comes back, again and again, while short processes run, half of them on that CPU
 * whenever it is there. Then processes knock on it until the test has heard one, and more of them must all be heard. */
#include "trap.h"

#define WAVES 3
#define BLIPS 71 /* in each wave, by each of two runners */
#define KNOCKS 300 /* at most */
#define AFTER 101

static char online_file[64];
static int cpu = -1;

static bool set_online(const char *text)
{
	int file = open(online_file, O_WRONLY | O_CLOEXEC);
	bool good = file != -1 && write(file, text, 1) == 1;

	if (file != -1)
		close(file);
	return good;
}

static void restore(void)
{
	/* Refused (EBUSY) for a moment while another change is under way, and no error when it is there. */
	for (int turn = 0; turn < 500; turn++) {
		if (set_online("1"))
			return;
		sleep_ms(10);
	}
	die("CPU stays offline", __LINE__);
}

/* The last CPU that is online and has a switch. */
static bool find_cpu(void)
{
	for (int number = (int)sysconf(_SC_NPROCESSORS_CONF) - 1; number > 0; number--) {
		char state = '0';
		int file;

		snprintf(online_file, sizeof(online_file), "/sys/devices/system/cpu/cpu%d/online", number);
		file = open(online_file, O_RDWR | O_CLOEXEC);
		if (file == -1)
			continue;
		if (read(file, &state, 1) != 1)
			state = '0';
		close(file);
		cpu = number;
		if (state == '1')
			return true;
	}
	return false;
}

/* To that CPU, or anywhere while it is away. */
static void pin_if_there(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) == -1)
		MUST(errno == EINVAL);
}

/* A process that executes and ends at once. */
static void blip(const char *what, int number, bool pinned)
{
	uint64_t before = boot_ns();
	pid_t pid = spawn();
	char text[16];
	int status;

	if (pid == 0) {
		if (pinned)
			pin_if_there();
		snprintf(text, sizeof(text), "%d", number);
		execl(own_path(), "blip", text, NULL);
		die("execl", __LINE__);
	}
	status = wait_for(pid);
	say("{\"what\":\"%s\",\"number\":%d,\"pid\":%d,\"pinned\":%s,\"status\":%d,\"before_ns\":%" PRIu64
	    ",\"gone_ns\":%" PRIu64 "}",
	    what, number, pid, pinned ? "true" : "false", status, before, boot_ns());
}

/* Two runners at once, and meanwhile the CPU goes and comes back until both are done, once at least. */
static void wave(int number)
{
	pid_t runners[2];
	int status, left = 2, times = 0;

	for (int runner = 0; runner < 2; runner++) {
		runners[runner] = spawn();
		if (runners[runner] == 0) {
			for (int index = 0; index < BLIPS; index++)
				blip("blip", (number * BLIPS + index) * 2 + runner, runner == 1);
			_exit(0);
		}
	}
	while (left > 0 || times == 0) {
		uint64_t before = boot_ns();

		CHECK(set_online("0") ? 0 : -1);
		sleep_ms(20);
		restore();
		say("{\"what\":\"away\",\"cpu\":%d,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}", cpu, before, boot_ns());
		times++;
		sleep_ms(20);
		for (int runner = 0; runner < 2; runner++) {
			if (runners[runner] > 0 && CHECK(waitpid(runners[runner], &status, WNOHANG)) == runners[runner]) {
				MUST(status == 0);
				runners[runner] = 0;
				left--;
			}
		}
	}
}

int main(int count, char **arguments)
{
	struct pollfd heard = {.fd = STDIN_FILENO, .events = POLLIN};
	struct keeper keeper;

	if (getenv(CASE_VARIABLE) != NULL)
		return count == 2 ? atoi(arguments[1]) % 251 : 250;
	start_truth();
	CHECK(setenv(CASE_VARIABLE, "blip", 1));
	if (!find_cpu()) {
		missing("CPU that can be taken offline");
		return 0;
	}
	keeper = start_keeper(restore);
	if (!set_online("0")) {
		missing("CPU that can be taken offline");
		stop_keeper(keeper);
		return 0;
	}
	restore();
	for (int number = 0; number < WAVES; number++)
		wave(number);
	stop_keeper(keeper);
	for (int number = 0; number < KNOCKS && poll(&heard, 1, 0) == 0; number++) {
		blip("knock", number, true);
		sleep_ms(100);
	}
	wait_go();
	for (int number = 0; number < AFTER; number++)
		blip("after", number, true);
	return 0;
}
