/* Trap 19: a process in a pid namespace has another pid there. Two namespaces, one in the other; in each a process that
 * executes, connects and exits. The pids of the first namespace come from the kernel: credentials on a socket are
 * translated for who receives. */
#include "trap.h"

struct report {
	pid_t inside; /* as the process sees it */
	uint64_t ticks, pidns;
	uint16_t local, remote;
	uint64_t before, after;
	char label[16];
};

/* Sends the report, with the credentials that the kernel translates. */
static void send_report(int handle, const struct report *report)
{
	struct iovec part = {(void *)report, sizeof(*report)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	MUST(sendmsg(handle, &message, 0) == sizeof(*report));
}

/* The process itself, after its exec: argv is label, number of the socket to report on, port to connect to. */
static int inmate(char **arguments)
{
	int reports = atoi(arguments[2]);
	uint16_t port = (uint16_t)atoi(arguments[3]);
	struct address address = address_of(LOOPBACK, port);
	struct report report = {0};
	int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);

	strncpy(report.label, arguments[1], sizeof(report.label) - 1);
	report.inside = getpid();
	report.pidns = namespace_inode("pid");
	report.before = boot_ns();
	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
	report.after = boot_ns();
	report.local = local_port(handle);
	report.remote = port;
	send_report(reports, &report);
	/* The other end closes first: the process is still there when the connection ends. */
	MUST(receive_all(handle) == 0);
	close(handle);
	return 19;
}

static void become(const char *label, int reports, uint16_t port)
{
	char report_text[16], port_text[16];
	char *arguments[] = {"inmate", (char *)label, report_text, port_text, NULL};

	snprintf(report_text, sizeof(report_text), "%d", reports);
	snprintf(port_text, sizeof(port_text), "%u", port);
	CHECK(setenv(CASE_VARIABLE, label, 1));
	execv(own_path(), arguments);
	die("execv", __LINE__);
}

/* Process 1 of a namespace: starts an inmate, then, but for the innermost, a namespace within. */
static int first(int depth, int reports, uint16_t port)
{
	static const char *const labels[] = {"outer", "inner"};
	struct report report = {.inside = getpid(), .pidns = namespace_inode("pid"), .label = "init"};
	pid_t pid;

	MUST(getpid() == 1);
	send_report(reports, &report);
	pid = spawn();
	if (pid == 0)
		become(labels[depth], reports, port);
	MUST(WEXITSTATUS(wait_for(pid)) == 19);
	if (depth == 0) {
		CHECK(unshare(CLONE_NEWPID));
		pid = spawn();
		if (pid == 0)
			_exit(first(1, reports, port));
		MUST(wait_for(pid) == 0);
	}
	return 0;
}

/* A message and the pid of its sender, in the namespace of this process. */
static pid_t receive_report(int handle, struct report *report)
{
	char control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec part = {report, sizeof(*report)};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header;
	struct ucred credentials;

	MUST(recvmsg(handle, &message, 0) == sizeof(*report));
	header = CMSG_FIRSTHDR(&message);
	MUST(header != NULL && header->cmsg_type == SCM_CREDENTIALS);
	memcpy(&credentials, CMSG_DATA(header), sizeof(credentials));
	return credentials.pid;
}

int main(int count, char **arguments)
{
	int listener, pair[2], yes = 1;
	pid_t top, host;

	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		return count == 4 ? inmate(arguments) : 2;
	}
	start_truth();
	listener = tcp_listener(LOOPBACK, 0, 5);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)); /* no CLOEXEC: the inmates report on it after their exec */
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)));
	CHECK(fcntl(pair[0], F_SETFD, FD_CLOEXEC));
	CHECK(unshare(CLONE_NEWPID));
	top = spawn();
	if (top == 0)
		_exit(first(0, pair[1], local_port(listener)));
	say("{\"what\":\"top\",\"pid\":%d}", top);
	for (int index = 0; index < 2; index++) {
		struct report report;
		pid_t init = receive_report(pair[0], &report);
		int accepted;

		MUST(strcmp(report.label, "init") == 0);
		accepted = tcp_accept(listener, "pidns");
		host = receive_report(pair[0], &report);
		report.ticks = start_ticks(host);
		say("{\"what\":\"inmate\",\"label\":\"%s\",\"pid\":%d,\"vpid\":%d,\"ppid\":%d,\"start_ticks\":%" PRIu64
		    ",\"pidns\":%" PRIu64 ",\"local_port\":%u,\"remote_port\":%u,\"before_ns\":%" PRIu64
		    ",\"after_ns\":%" PRIu64 ",\"exit_code\":19}",
		    report.label, host, report.inside, init, report.ticks, report.pidns, report.local, report.remote,
		    report.before, report.after);
		close(accepted);
	}
	wait_success(top);
	return 0;
}
