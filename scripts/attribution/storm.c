// SPDX-License-Identifier: Apache-2.0
/*
 * storm.c - processes with a known truth: each lives a few milliseconds and makes one TCP connection to a port of its own.
 *
 *	storm PROCESSES PARALLEL NOISE TRUTH [OCTAVES]
 *
 * PARALLEL workers run PROCESSES clients in one new network namespace, and for as long as they do, NOISE workers run
 * the same clients in a second one. Client i of either side connects 127.0.0.1:SOURCE_PORT+i to 127.0.0.1:FIRST_PORT+i, so
 * that the two sides' four-tuples are the same and only the namespace tells them apart. The noise keeps in step with
 * the main side (never more than NOISE clients ahead), so equal tuples are alive at the same time.
 *
 * With OCTAVES the clients of the main side keep their connections for 1 ms to 2^OCTAVES ms, as many of them in each
 * octave as in any other, in no order. What they were told is the last but one of their arguments.
 *
 * A worker listens on the port, forks and executes the client, accepts its connection, waits for it, and only then appends one
 * JSON line to TRUTH: what the client said about itself through a pipe, checked against what the worker saw.
 * Any disagreement ends the storm with status 1, so a TRUTH from a storm that ended with 0 is complete.
 *
 * Connections end with a reset (SO_LINGER 0): nothing stays in TIME_WAIT, so a bound source port is free again at once.
 *
 * The program is started under several names, hard links in one directory: `storm` is the generator, any other is a client
 * (`client` on the main side, `noise` on the other).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	FIRST_PORT = 20000,
	SOURCE_PORT = 40000,
	MAX_OCTAVES = 12, /* 4 s */
	MAX_PROCESSES = 20000, /* both port ranges stay apart and below 60000 */
	MAX_WORKERS = 1024,
	REPORT_FD = 3,
	CLIENT_FAILED = 125, /* no client is told to end with this or with 127 */
	EXIT_CODES = 64,
	ACCEPT_SECONDS = 20,
	STORM_SECONDS = 600, /* a storm that hangs ends itself */
};

/* What a client says about itself; smaller than PIPE_BUF, so written and read whole. */
struct report {
	int32_t pid;
	int32_t ppid;
	uint64_t start; /* ticks since boot, field 22 of /proc/self/stat */
	uint64_t netns; /* inode */
	uint16_t local_port;
	uint16_t port;
};

struct side {
	const char *name; /* in the truth */
	char client[PATH_MAX];
	int workers;
	unsigned hold_us; /* shortest time a client keeps its connection; the longest is three times that */
};

/* Shared by every worker. */
struct progress {
	atomic_int next_main;
	atomic_int next_noise;
	atomic_int main_workers;
	atomic_bool failed;
};

static struct progress *progress;
static int processes;
static int noise_ahead;
static int octaves;
static int truth_fd;
static char self_path[PATH_MAX];
static char **self_argv;

static void fail(const char *what)
{
	fprintf(stderr, "storm: pid %d: %s: %s\n", getpid(), what, strerror(errno));
	if (progress)
		progress->failed = true;
	exit(CLIENT_FAILED);
}

static uint64_t mix(uint64_t x) /* splitmix64's finaliser: a nonce anyone can recompute */
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static void describe_self(struct report *report)
{
	char text[1024];
	struct stat ns;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	char *at;

	if (length <= 0)
		fail("/proc/self/stat");
	close(fd);
	text[length] = '\0';
	at = strrchr(text, ')'); /* the name before it may hold anything */
	if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lu",
			  &report->start) != 1)
		fail("/proc/self/stat has no start time");
	if (stat("/proc/self/ns/net", &ns))
		fail("/proc/self/ns/net");
	report->netns = ns.st_ino;
	report->pid = getpid();
	report->ppid = getppid();
}

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

static int bound_socket(int port)
{
	struct sockaddr_in address = loopback(port);
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("a bound socket");
	return fd;
}

/* client PORT NONCE EXIT_CODE HOLD_US [anything]: what the tracer has to get right. */
static int client(char **argv)
{
	int port = atoi(argv[1]), code = atoi(argv[3]);
	struct sockaddr_in address = loopback(port);
	struct report report = { 0 };
	socklen_t length = sizeof(address);
	int fd;

	describe_self(&report);
	fd = bound_socket(port - FIRST_PORT + SOURCE_PORT);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("connect");
	if (getsockname(fd, (struct sockaddr *)&address, &length))
		fail("getsockname");
	report.local_port = ntohs(address.sin_port);
	length = sizeof(address);
	if (getpeername(fd, (struct sockaddr *)&address, &length))
		fail("getpeername");
	report.port = ntohs(address.sin_port);
	if (write(REPORT_FD, &report, sizeof(report)) != sizeof(report))
		fail("the report pipe");
	usleep(atoi(argv[4]));
	if (code % 2) /* the others leave the closing to the kernel, at exit */
		close(fd);
	return code;
}

/* The next client's index, or -1 when this side is done. Noise goes round and round until the main side ends. */
static int take(bool is_noise)
{
	while (!progress->failed) {
		int next;

		if (!is_noise) {
			next = atomic_fetch_add(&progress->next_main, 1);
			return next < processes ? next : -1;
		}
		if (!progress->main_workers)
			return -1;
		next = progress->next_noise;
		if (next >= progress->next_main + noise_ahead)
			usleep(5000);
		else if (atomic_compare_exchange_strong(&progress->next_noise, &next, next + 1))
			return next % processes;
	}
	return -1;
}

/* One line in one append, so that lines of several workers can't mix. Nothing written here needs escaping in JSON. */
static void append_truth(const char *role, const struct side *side, const struct report *report, const char *exe,
			 char **argv, int exit_code)
{
	char line[PATH_MAX * 4];
	size_t length = 0;

#define ADD(...) (length += snprintf(line + length, sizeof(line) - length, __VA_ARGS__))
	ADD("{\"role\":\"%s\",\"side\":\"%s\",\"pid\":%d,\"ppid\":%d,\"start\":%lu,\"netns\":%lu", role, side->name, report->pid,
	    report->ppid, report->start, report->netns);
	ADD(",\"local_port\":%u,\"port\":%u,\"exit_code\":%d,\"exe\":\"%s\",\"argv\":[", report->local_port, report->port,
	    exit_code, exe);
	for (int i = 0; argv[i] && length < sizeof(line); i++)
		ADD("%s\"%s\"", i ? "," : "", argv[i]);
	if (length < sizeof(line))
		ADD("]}\n");
#undef ADD
	if (length >= sizeof(line) || write(truth_fd, line, length) != (ssize_t)length)
		fail("the truth file");
}

/* How long a client keeps its connection, in us. */
static unsigned long hold_us(const struct side *side, uint64_t random)
{
	const unsigned long parts = 1000;
	unsigned long part;

	if (side->name[0] == 'n' || !octaves)
		return side->hold_us + random % (2 * side->hold_us);
	part = random % (octaves * parts);
	return (1000UL << part / parts) * (parts + part % parts) / parts;
}

static void run_client(const struct side *side, const int *pipe_fds, int index)
{
	struct sockaddr_in peer;
	socklen_t peer_length = sizeof(peer);
	struct report report;
	struct pollfd waiting;
	char port[12], nonce[17], code[12], hold[24];
	char extra[][12] = { "", "two words" };
	char *argv[] = { basename((char *)side->client), port, nonce, code, hold, NULL, NULL };
	uint64_t random = mix(index + (side->name[0] == 'n' ? MAX_PROCESSES : 0));
	int exit_code = random % EXIT_CODES, listener, accepted, status;
	pid_t pid;

	snprintf(port, sizeof(port), "%d", FIRST_PORT + index);
	snprintf(nonce, sizeof(nonce), "%016lx", random);
	snprintf(code, sizeof(code), "%d", exit_code);
	snprintf(hold, sizeof(hold), "%lu", hold_us(side, random >> 8));
	if (index % 3) /* an empty argument and one with a space are easily lost */
		argv[5] = extra[index % 3 - 1];

	listener = bound_socket(FIRST_PORT + index);
	if (listen(listener, 1))
		fail("listen");
	pid = fork();
	if (!pid) {
		execv(side->client, argv);
		_exit(127);
	}
	waiting = (struct pollfd){ .fd = listener, .events = POLLIN };
	if (pid < 0 || poll(&waiting, 1, ACCEPT_SECONDS * 1000) != 1)
		fail("no connection came");
	accepted = accept4(listener, (struct sockaddr *)&peer, &peer_length, SOCK_CLOEXEC);
	if (accepted < 0)
		fail("accept");
	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid");
	if (read(pipe_fds[0], &report, sizeof(report)) != sizeof(report))
		fail("a client without a report");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != exit_code || report.pid != pid || report.ppid != getpid() ||
	    report.port != FIRST_PORT + index || report.local_port != ntohs(peer.sin_port))
		fail("a client that did something else");
	append_truth("client", side, &report, side->client, argv, exit_code);
	close(accepted);
	close(listener);
}

static _Noreturn void worker(const struct side *side, int gate)
{
	bool is_noise = side->name[0] == 'n';
	struct report report = { 0 };
	int pipe_fds[2], index;
	char nothing;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pipe2(pipe_fds, O_CLOEXEC) || dup2(pipe_fds[1], REPORT_FD) != REPORT_FD)
		fail("the report pipe");
	if (read(gate, &nothing, 1)) /* opens, with an end of file, when all workers are there */
		fail("the gate");
	while ((index = take(is_noise)) >= 0)
		run_client(side, pipe_fds, index);
	if (!is_noise)
		progress->main_workers--;
	describe_self(&report);
	append_truth("worker", side, &report, self_path, self_argv, 0);
	exit(progress->failed);
}

static void start_side(const struct side *side, const int *gate)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	if (unshare(CLONE_NEWNET))
		fail("unshare");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo))
		fail("lo up");
	close(fd);
	for (int i = 0; i < side->workers; i++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (!pid) {
			close(gate[1]);
			worker(side, gate[0]);
		}
	}
}

int main(int argc, char **argv)
{
	struct side main_side = { .name = "main", .hold_us = 1000 };
	struct side noise_side = { .name = "noise", .hold_us = 40000 }; /* so long that dozens live at once */
	const struct side root_side = { .name = "root" };
	struct report report = { 0 };
	int gate[2], home, status, spare;
	ssize_t length;
	char *directory;

	if (strcmp(basename(argv[0]), "storm"))
		return argc >= 5 ? client(argv) : CLIENT_FAILED;
	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: storm PROCESSES PARALLEL NOISE TRUTH [OCTAVES]\n");
		return 2;
	}
	octaves = argc == 6 ? atoi(argv[5]) : 0;
	processes = atoi(argv[1]);
	main_side.workers = atoi(argv[2]);
	noise_side.workers = noise_ahead = atoi(argv[3]);
	if (octaves < 0 || octaves > MAX_OCTAVES || processes < 1 || processes > MAX_PROCESSES || main_side.workers < 1 || main_side.workers > MAX_WORKERS ||
	    noise_ahead < 0 || noise_ahead > MAX_WORKERS || noise_ahead >= processes) {
		fprintf(stderr, "storm: 1 to %d PROCESSES, 1 to %d PARALLEL, fewer NOISE than PROCESSES, %d OCTAVES at most\n",
			MAX_PROCESSES, MAX_WORKERS, MAX_OCTAVES);
		return 2;
	}
	alarm(STORM_SECONDS);
	self_argv = argv;
	length = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);
	if (length <= 0)
		fail("/proc/self/exe");
	directory = dirname(strdup(self_path));
	if (snprintf(main_side.client, PATH_MAX, "%s/client", directory) >= PATH_MAX ||
	    snprintf(noise_side.client, PATH_MAX, "%s/noise", directory) >= PATH_MAX)
		fail("a shorter path is needed");
	/* Descriptor 3 is the clients'; take it now, so that nothing of ours gets it. */
	spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (spare < 0 || (spare != REPORT_FD && dup2(spare, REPORT_FD) != REPORT_FD))
		fail("descriptor 3");
	truth_fd = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (truth_fd < 0)
		fail(argv[4]);
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (progress == MAP_FAILED || home < 0 || pipe2(gate, O_CLOEXEC))
		fail("starting");
	progress->main_workers = main_side.workers;
	describe_self(&report);

	start_side(&main_side, gate);
	start_side(&noise_side, gate);
	if (setns(home, CLONE_NEWNET))
		fail("setns");
	close(gate[0]);
	close(gate[1]);
	for (int left = main_side.workers + noise_side.workers; left > 0; left--)
		if (wait(&status) < 0 || status)
			progress->failed = true;
	append_truth("root", &root_side, &report, self_path, argv, progress->failed);
	return progress->failed;
}
