/* Trap 48: a time namespace shifts the start times a process sees of itself and others, and in a pid namespace whose
 * numbers wrap the same pid comes again and again among 64 busy neighbours. What the first namespaces see never shifts
 * and never repeats. */
#include <linux/sched.h>

#include "trap.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define NEIGHBOURS 64
#define LIVES 7
#define VPID 5000
#define SHIFT_S 1000000

/* The image: connects to the port in argv[2] and ends with the code in argv[3]; argv[1] is the label. */
static int life(char **arguments)
{
	struct address address = address_of(LOOPBACK, (uint16_t)atoi(arguments[2]));
	int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC), yes = 1;
	char byte = 'x';

	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
	/* On descriptor 100 the kernel adds this process's pid as the receiver sees it. */
	CHECK(send(100, &byte, 1, 0));
	MUST(recv(handle, &yes, 1, 0) == 0); /* the starter is done looking */
	close(handle);
	return atoi(arguments[3]);
}

static void become(const char *label, uint16_t port, int code)
{
	char port_text[16], code_text[16];
	char *arguments[] = {"life", (char *)label, port_text, code_text, NULL};

	snprintf(port_text, sizeof(port_text), "%u", port);
	snprintf(code_text, sizeof(code_text), "%d", code);
	CHECK(setenv(CASE_VARIABLE, label, 1));
	execv(own_path(), arguments);
	die("execv", __LINE__);
}

/* One life as seen from the first namespaces; `peer` becomes its port. */
static pid_t observe(const char *label, int listener, int reports, pid_t vpid, int code, uint64_t before,
		     uint16_t *peer)
{
	char control[CMSG_SPACE(sizeof(struct ucred))], byte;
	struct iovec part = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int accepted = tcp_accept(listener, label);
	struct ucred credentials;

	MUST(recvmsg(reports, &message, 0) == 1);
	MUST(CMSG_FIRSTHDR(&message) != NULL && CMSG_FIRSTHDR(&message)->cmsg_type == SCM_CREDENTIALS);
	memcpy(&credentials, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(credentials));
	say("{\"what\":\"life\",\"label\":\"%s\",\"pid\":%d,\"vpid\":%d,\"start_ticks\":%" PRIu64
	    ",\"code\":%d,\"local_port\":%u,\"remote_port\":%u"
	    ",\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}",
	    label, credentials.pid, vpid ? vpid : credentials.pid, start_ticks(credentials.pid), code,
	    remote_port(accepted), local_port(accepted), before, boot_ns());
	*peer = remote_port(accepted);
	close(accepted);
	return credentials.pid;
}

static void in_time_namespace(int listener, const int *pair)
{
	char offsets[64];
	uint64_t before;
	uint16_t peer;
	pid_t pid, starter = spawn();

	if (starter != 0) {
		wait_success(starter);
		return;
	}
	if (unshare(CLONE_NEWTIME) == -1) {
		missing("time namespaces");
		_exit(0);
	}
	snprintf(offsets, sizeof(offsets), "boottime %d 0\nmonotonic %d 0\n", SHIFT_S, SHIFT_S);
	write_file("/proc/self/timens_offsets", offsets);
	before = boot_ns();
	pid = spawn(); /* the child is in it, the caller is not */
	if (pid == 0) {
		MUST(boot_ns() - before > (uint64_t)SHIFT_S * 1000000000u);
		become("time", local_port(listener), 48);
	}
	MUST(observe("time", listener, pair[0], 0, 48, before, &peer) == pid);
	MUST(WEXITSTATUS(wait_for(pid)) == 48);
	wait_gone(peer, local_port(listener));
	say("{\"what\":\"ended\",\"label\":\"time\",\"pid\":%d,\"gone_ns\":%" PRIu64 "}", pid, boot_ns());
	_exit(0);
}

static void neighbour(void)
{
	for (;;) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		sleep_ms(4);
	}
}

static long number_in(const char *path)
{
	char text[32] = "";
	int file = CHECK(open(path, O_RDONLY | O_CLOEXEC));

	MUST(read(file, text, sizeof(text) - 1) > 0);
	close(file);
	return atol(text);
}

/* Process 1 of the namespace. When it ends, the kernel ends all its neighbours. */
static void wrapping(uint16_t port, struct gate next, struct gate done)
{
	long highest = number_in("/proc/sys/kernel/pid_max");
	pid_t wanted = VPID;
	char text[32];

	MUST(getpid() == 1);
	for (int index = 0; index < NEIGHBOURS; index++)
		if (CHECK(fork()) == 0)
			neighbour();
	snprintf(text, sizeof(text), "%ld", highest - 40);
	write_file("/proc/sys/kernel/ns_last_pid", text);
	for (int round = 0; round < LIVES; round++) {
		struct clone_args request = {
			.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1};
		pid_t pid;
		int status;

		wait_gate(next);
		pid = (pid_t)syscall(SYS_clone3, &request, sizeof(request));
		/* A neighbour's child may have the number just then. */
		for (int turn = 0; pid == -1 && errno == EEXIST && turn < 1000; turn++) {
			sleep_ms(1);
			pid = (pid_t)syscall(SYS_clone3, &request, sizeof(request));
		}
		if (CHECK(pid) == 0)
			become("wrap", port, round);
		MUST(pid == VPID);
		while (waitpid(pid, &status, 0) == -1 && errno == EINTR)
			;
		MUST(WIFEXITED(status) && WEXITSTATUS(status) == round);
		open_gate(done);
	}
	/* Forty forks after the start the numbers began again. */
	for (int turn = 0; number_in("/proc/sys/kernel/ns_last_pid") > highest - 41 && turn < 2000; turn++)
		sleep_ms(2);
	MUST(number_in("/proc/sys/kernel/ns_last_pid") <= highest - 41);
	_exit(0);
}

static void in_pid_namespace(int listener, const int *pair)
{
	struct gate next = new_gate(), done = new_gate();
	pid_t init;

	CHECK(unshare(CLONE_NEWPID));
	init = spawn();
	if (init == 0)
		wrapping(local_port(listener), next, done);
	for (int round = 0; round < LIVES; round++) {
		uint64_t before = boot_ns();
		uint16_t peer;
		pid_t pid;

		open_gate(next);
		pid = observe("wrap", listener, pair[0], VPID, round, before, &peer);
		wait_gate(done);
		wait_gone(peer, local_port(listener));
		say("{\"what\":\"ended\",\"label\":\"wrap\",\"pid\":%d,\"gone_ns\":%" PRIu64 "}", pid, boot_ns());
	}
	wait_success(init);
}

int main(int count, char **arguments)
{
	int listener, pair[2], yes = 1;

	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		return count == 4 ? life(arguments) : 2;
	}
	start_truth();
	listener = tcp_listener(LOOPBACK, 0, 5);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)));
	CHECK(dup2(pair[1], 100)); /* not closed by the exec */
	in_time_namespace(listener, pair);
	in_pid_namespace(listener, pair);
	return 0;
}
