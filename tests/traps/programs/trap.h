/* What the trap programs share: they do a thing, then print the truth about it as JSON lines on standard output.
 *
 * Every program needs libc, root and a mounted /proc, nothing else, and ends by itself within a minute. Times are
 * nanoseconds of CLOCK_BOOTTIME, a "clock" line at the start ties them to the wall clock; pids are those of the first
 * namespace the program sees; a facility that this kernel lacks is a "missing" line, and then that case is not claimed.
 */
#ifndef TRAP_H
#define TRAP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOPBACK "127.0.0.1"
/* No program may outlive this, whatever goes wrong; longer where TRACER_TEST_PATIENCE says that the machine is slow. */
#define LIFETIME_S 60
/* Room for one line of truth: the longest holds 1,009 ports and byte counts or an argument of 4 KiB. */
#define LINE_SIZE 65536

static inline void die(const char *what, int line)
{
	dprintf(STDERR_FILENO, "line %d: %s: %s\n", line, what, strerror(errno));
	_exit(2);
}

/* The value of a call that answers -1 when it fails; anything unexpected ends the program with the line number. */
#define CHECK(call)                                   \
	({                                            \
		__typeof__(call) checked_ = (call);   \
		if (checked_ == (__typeof__(call))-1) \
			die(#call, __LINE__);         \
		checked_;                             \
	})

/* The same for what must simply be true. */
#define MUST(condition)                            \
	do {                                       \
		if (!(condition))                  \
			die(#condition, __LINE__); \
	} while (0)

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	CHECK(clock_gettime(clock, &now));
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t boot_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

static inline void sleep_ms(long milliseconds)
{
	struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};

	while (nanosleep(&left, &left) == -1 && errno == EINTR)
		;
}

/* One line, written whole, so that lines of several processes never mix (short ones on a pipe, any on a file). */
static inline void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void say(const char *format, ...)
{
	static __thread char line[LINE_SIZE];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	MUST(length >= 0 && length < (int)sizeof(line) - 1);
	line[length++] = '\n';
	MUST(write(STDOUT_FILENO, line, (size_t)length) == length);
}

/* The bytes as hexadecimal digits, for text that JSON could not carry. Four buffers in turn. */
static inline const char *hex(const void *bytes, size_t count)
{
	static __thread char buffers[4][2 * 8192 + 1];
	static __thread unsigned turn;
	char *out = buffers[turn++ % 4];
	const unsigned char *in = bytes;

	MUST(count <= 8192);
	for (size_t at = 0; at < count; at++)
		sprintf(out + 2 * at, "%02x", in[at]);
	out[2 * count] = '\0';
	return out;
}

static inline void missing(const char *facility)
{
	say("{\"what\":\"missing\",\"facility\":\"%s\",\"errno\":%d}", facility, errno);
}

/* The inode of one of the caller's namespaces: net, pid, time. */
static inline uint64_t namespace_inode(const char *name)
{
	char path[64];
	struct stat found;

	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	CHECK(stat(path, &found));
	return found.st_ino;
}

/* Field 22 of /proc/PID/stat: the start in ticks since boot, as shown in the caller's time namespace. */
static inline uint64_t start_ticks(pid_t pid)
{
	char path[64], text[1024], *at;
	uint64_t ticks = 0;
	ssize_t length;
	int file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = CHECK(open(path, O_RDONLY | O_CLOEXEC));
	length = CHECK(read(file, text, sizeof(text) - 1));
	close(file);
	text[length] = '\0';
	at = strrchr(text, ')'); /* the name may hold spaces and parentheses: count from its end */
	MUST(at != NULL);
	for (int field = 2; field < 22; field++) {
		at = strchr(at, ' ');
		MUST(at != NULL);
		at++;
	}
	ticks = strtoull(at, NULL, 10);
	MUST(ticks > 0);
	return ticks;
}

static inline const char *own_path(void)
{
	static char path[4096];
	ssize_t length = CHECK(readlink("/proc/self/exe", path, sizeof(path) - 1));

	path[length] = '\0';
	return path;
}

static inline pid_t own_tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* How many times slower than others this machine may be: the patience of the tests, at least 1. */
static inline double patience(void)
{
	const char *told = getenv("TRACER_TEST_PATIENCE");
	double factor = told != NULL ? strtod(told, NULL) : 1;

	return factor > 1 ? factor : 1;
}

/* Ends the calling process after so many seconds, times the patience of the tests. */
static inline void limit_life(unsigned seconds)
{
	alarm((unsigned)(seconds * patience()));
}

/* Ties the boot clock to the wall clock, as a line. */
static inline void say_clock(const char *what)
{
	uint64_t boot = 0, wall = 0, narrowest = UINT64_MAX;

	/* Whoever is interrupted between two clocks is wrong by as much: of several pairs the closest counts. */
	for (int turn = 0; turn < 7; turn++) {
		uint64_t before = boot_ns(), between = clock_ns(CLOCK_REALTIME), width = boot_ns() - before;

		if (width < narrowest) {
			narrowest = width;
			boot = before + width / 2;
			wall = between;
		}
	}
	say("{\"what\":\"%s\",\"wall_ns\":%" PRIu64 ",\"boot_ns\":%" PRIu64 "}", what, wall, boot);
}

/* Call first: bounds the lifetime and prints the lines every comparison needs. */
static inline void start_truth(void)
{
	limit_life(LIFETIME_S);
	signal(SIGPIPE, SIG_IGN);
	say_clock("clock");
	say("{\"what\":\"program\",\"pid\":%d,\"ppid\":%d,\"exe\":\"%s\",\"start_ticks\":%" PRIu64 ",\"netns\":%" PRIu64
	    "}",
	    getpid(), getppid(), own_path(), start_ticks(getpid()), namespace_inode("net"));
}

/* fork(), with a child that cannot outlive its parent. */
static inline pid_t spawn(void)
{
	pid_t pid = CHECK(fork());

	if (pid == 0)
		CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL));
	return pid;
}

/* The wait status of a child. */
static inline int wait_for(pid_t pid)
{
	int status = 0;
	pid_t got;

	do
		got = waitpid(pid, &status, 0);
	while (got == -1 && errno == EINTR);
	MUST(got == pid);
	return status;
}

static inline void wait_success(pid_t pid)
{
	int status = wait_for(pid);

	if (status != 0) {
		dprintf(STDERR_FILENO, "child %d ended with status %#x\n", pid, (unsigned)status);
		_exit(2);
	}
}

/* Waits for the line that the test sends when it has seen what it needs. */
static inline void wait_go(void)
{
	char letter;

	do
		MUST(read(STDIN_FILENO, &letter, 1) == 1);
	while (letter != '\n');
}

/* To the n-th of the CPUs that exist, counted round. */
static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (int)sysconf(_SC_NPROCESSORS_ONLN), &set);
	CHECK(sched_setaffinity(0, sizeof(set), &set));
}

/* A gate is a pipe: whoever waits is let through once for each time it is opened. */
struct gate {
	int ends[2];
};

static inline struct gate new_gate(void)
{
	struct gate gate;

	CHECK(pipe2(gate.ends, O_CLOEXEC));
	return gate;
}

static inline void open_gate(struct gate gate)
{
	MUST(write(gate.ends[1], "g", 1) == 1);
}

static inline void wait_gate(struct gate gate)
{
	char letter;

	MUST(read(gate.ends[0], &letter, 1) == 1);
}

/* ---- what must be undone whatever happens ---- */

struct keeper {
	pid_t pid;
	int pipe;
};

/* A process that calls `undo` when `stop_keeper` is called or this program is gone, however it ended: in a session of
 * its own, so that what ends the tests leaves it be. */
static inline struct keeper start_keeper(void (*undo)(void))
{
	struct gate gate = new_gate();
	pid_t pid = CHECK(fork());

	if (pid == 0) {
		char letter;

		CHECK(setsid());
		alarm(0);
		close(gate.ends[1]);
		MUST(read(gate.ends[0], &letter, 1) == 0);
		undo();
		_exit(0);
	}
	close(gate.ends[0]);
	return (struct keeper){pid, gate.ends[1]};
}

static inline void stop_keeper(struct keeper keeper)
{
	close(keeper.pipe);
	wait_success(keeper.pid);
}

static inline void write_file(const char *path, const char *text)
{
	int file = CHECK(open(path, O_WRONLY | O_CLOEXEC));

	MUST(write(file, text, strlen(text)) == (ssize_t)strlen(text));
	close(file);
}

/* A directory of the program's own; /tmp is made where there is none. */
static inline const char *scratch(void)
{
	static char path[] = "/tmp/trapXXXXXX";

	mkdir("/tmp", 01777);
	MUST(mkdtemp(path) != NULL);
	return path;
}

static inline void copy_file(const char *from, const char *to, mode_t mode)
{
	static char block[65536];
	int in = CHECK(open(from, O_RDONLY | O_CLOEXEC)),
	    out = CHECK(open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
	ssize_t count;

	while ((count = CHECK(read(in, block, sizeof(block)))) > 0)
		MUST(write(out, block, (size_t)count) == count);
	CHECK(fchmod(out, mode)); /* mode of open() is cut by the umask */
	close(in);
	close(out);
}

static inline void make_file(const char *path, const char *text, mode_t mode)
{
	int out = CHECK(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));

	MUST(write(out, text, strlen(text)) == (ssize_t)strlen(text));
	CHECK(fchmod(out, mode));
	close(out);
}

/* A fresh network namespace starts with its loopback interface down. */
static inline void own_netns(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	int handle;

	CHECK(unshare(CLONE_NEWNET));
	handle = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	CHECK(ioctl(handle, SIOCGIFFLAGS, &request));
	request.ifr_flags |= IFF_UP;
	CHECK(ioctl(handle, SIOCSIFFLAGS, &request));
	close(handle);
}

/* ---- sockets ---- */

struct address {
	struct sockaddr_storage storage;
	socklen_t length;
};

/* An IPv4 address has dots only, an IPv6 one has colons. */
static inline struct address address_of(const char *ip, uint16_t port)
{
	struct address address = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *four = (struct sockaddr_in *)&address.storage;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address.storage;

	if (strchr(ip, ':') == NULL) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		MUST(inet_pton(AF_INET, ip, &four->sin_addr) == 1);
	} else {
		address.length = sizeof(struct sockaddr_in6);
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		MUST(inet_pton(AF_INET6, ip, &six->sin6_addr) == 1);
	}
	return address;
}

static inline int tcp_socket(const char *ip, int flags)
{
	return CHECK(socket(strchr(ip, ':') ? AF_INET6 : AF_INET, SOCK_STREAM | flags, IPPROTO_TCP));
}

/* The port of a sockaddr, and its address as text in the given buffer of INET6_ADDRSTRLEN. */
static inline uint16_t text_of(const struct sockaddr_storage *from, char *text)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)from;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

	if (from->ss_family == AF_INET) {
		MUST(inet_ntop(AF_INET, &four->sin_addr, text, INET6_ADDRSTRLEN) != NULL);
		return ntohs(four->sin_port);
	}
	MUST(inet_ntop(AF_INET6, &six->sin6_addr, text, INET6_ADDRSTRLEN) != NULL);
	return ntohs(six->sin6_port);
}

static inline uint16_t local_port(int handle)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	char text[INET6_ADDRSTRLEN];

	CHECK(getsockname(handle, (struct sockaddr *)&name, &length));
	return text_of(&name, text);
}

static inline uint16_t remote_port(int handle)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	char text[INET6_ADDRSTRLEN];

	CHECK(getpeername(handle, (struct sockaddr *)&name, &length));
	return text_of(&name, text);
}

/* A socket bound to the address, port 0 for any. */
static inline int tcp_bound(const char *ip, uint16_t port)
{
	struct address address = address_of(ip, port);
	int handle = tcp_socket(ip, SOCK_CLOEXEC), yes = 1;

	CHECK(setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
	CHECK(bind(handle, (struct sockaddr *)&address.storage, address.length));
	return handle;
}

/* Makes a bound socket listen, told as a "listen" line. */
static inline void tcp_listen(int handle, const char *ip, int backlog)
{
	uint64_t before = boot_ns();

	CHECK(listen(handle, backlog));
	say("{\"what\":\"listen\",\"pid\":%d,\"ip\":\"%s\",\"port\":%u,\"backlog\":%d,\"netns\":%" PRIu64
	    ",\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 "}",
	    getpid(), ip, local_port(handle), backlog, namespace_inode("net"), before, boot_ns());
}

static inline int tcp_listener(const char *ip, uint16_t port, int backlog)
{
	int handle = tcp_bound(ip, port);

	tcp_listen(handle, ip, backlog);
	return handle;
}

/* One line about a connected (or once connected) socket: both addresses, who, and what the format adds after a comma.
 */
static inline void say_socket(const char *what, int handle, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static inline void say_socket(const char *what, int handle, const char *format, ...)
{
	struct sockaddr_storage name;
	char local[INET6_ADDRSTRLEN] = "", remote[INET6_ADDRSTRLEN] = "", extra[1024];
	uint16_t local_number, remote_number = 0;
	socklen_t length = sizeof(name);
	va_list arguments;

	va_start(arguments, format);
	MUST(vsnprintf(extra, sizeof(extra), format, arguments) < (int)sizeof(extra));
	va_end(arguments);
	CHECK(getsockname(handle, (struct sockaddr *)&name, &length));
	local_number = text_of(&name, local);
	length = sizeof(name);
	if (getpeername(handle, (struct sockaddr *)&name, &length) == 0)
		remote_number = text_of(&name, remote);
	say("{\"what\":\"%s\",\"pid\":%d,\"tid\":%d,\"local_ip\":\"%s\",\"local_port\":%u"
	    ",\"remote_ip\":\"%s\",\"remote_port\":%u"
	    ",\"netns\":%" PRIu64 ",%s}",
	    what, getpid(), own_tid(), local, local_number, remote, remote_number, namespace_inode("net"), extra);
}

/* A blocking connect that must succeed, told as a "connect" line with the given label. */
static inline int tcp_connect(const char *ip, uint16_t port, const char *label)
{
	struct address address = address_of(ip, port);
	int handle = tcp_socket(ip, SOCK_CLOEXEC);
	uint64_t before = boot_ns();

	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   label, before, boot_ns());
	return handle;
}

/* accept, told as an "accept" line with the given label. */
static inline int tcp_accept(int listener, const char *label)
{
	int handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));

	/* Established some time before: only the end of the interval is known. */
	say_socket("accept", handle, "\"label\":\"%s\",\"after_ns\":%" PRIu64, label, boot_ns());
	return handle;
}

static inline void send_exactly(int handle, size_t count)
{
	static const char zeros[65536];

	while (count > 0) {
		ssize_t sent = CHECK(send(handle, zeros, count < sizeof(zeros) ? count : sizeof(zeros), MSG_NOSIGNAL));

		count -= (size_t)sent;
	}
}

/* The number of bytes up to the end of the stream, or to the count given if that comes first. */
static inline size_t receive_up_to(int handle, size_t count)
{
	static __thread char block[65536];
	size_t total = 0;

	while (total < count) {
		size_t rest = count - total;
		ssize_t got = CHECK(recv(handle, block, rest < sizeof(block) ? rest : sizeof(block), 0));

		if (got == 0)
			break;
		total += (size_t)got;
	}
	return total;
}

static inline size_t receive_all(int handle)
{
	return receive_up_to(handle, SIZE_MAX);
}

/* The state number of the socket with this pair of ports in the caller's /proc/net/tcp or tcp6, 0 when there is none.
 * A TIME_WAIT entry (6) counts only when asked for: the connection itself is over then. */
static inline int state_of(uint16_t local, uint16_t remote, bool with_time_wait)
{
	static const char *const files[] = {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"};
	unsigned entry_local, entry_remote, entry_state;
	int state = 0;
	char line[512];

	for (int which = 0; which < 2; which++) {
		FILE *table = fopen(files[which], "re");

		if (table == NULL)
			continue; /* no IPv6 here */
		while (fgets(line, sizeof(line), table) != NULL) {
			if (sscanf(line, " %*[^:]: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%x %x", &entry_local, &entry_remote,
				   &entry_state) != 3)
				continue;
			if (entry_local == local && entry_remote == remote && (with_time_wait || entry_state != 6))
				state = (int)entry_state;
		}
		fclose(table);
	}
	return state;
}

/* Waits until the end with these ports is ESTABLISHED, for at most some ten seconds. The accepting end becomes so by
 * softirq: where that is left to ksoftirqd, after the peer's connect has returned. */
static inline uint64_t wait_established(uint16_t local, uint16_t remote)
{
	for (int turn = 0; turn < 2500; turn++) {
		if (state_of(local, remote, false) == 1)
			return boot_ns();
		sleep_ms(2);
	}
	errno = ETIMEDOUT;
	die("connection not established", __LINE__);
	return 0;
}

/* Waits until both ends of a connection are over (closed or TIME_WAIT), for at most some ten seconds. The kernel takes
 * a socket out of its tables before it changes its state (tcp_set_state() in net/ipv4/tcp.c): what another CPU is
 * about to do then in softirq is waited for, as a grace period of RCU. */
static inline uint64_t wait_gone(uint16_t one, uint16_t other)
{
	for (int turn = 0; turn < 2500; turn++) {
		if (state_of(one, other, false) == 0 && state_of(other, one, false) == 0) {
			if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == -1)
				sleep_ms(50); /* refused with nohz_full= */
			return boot_ns();
		}
		sleep_ms(2);
	}
	errno = ETIMEDOUT;
	die("connection still there", __LINE__);
	return 0;
}

/* How a connection ended for one of its two processes: the bytes that it sent, that arrived and that it took, the state
 * before CLOSE ("" where several are right), the error the kernel kept, and the bounds of its life in nanoseconds. */
static inline void say_close_unread(const char *label, pid_t pid, uint16_t local, uint16_t remote, size_t sent,
				    size_t received, size_t taken, const char *state, int error, uint64_t least_ns,
				    uint64_t most_ns)
{
	say("{\"what\":\"close\",\"label\":\"%s\",\"pid\":%d,\"local_port\":%u,\"remote_port\":%u"
	    ",\"sent\":%zu,\"received\":%zu,\"taken\":%zu"
	    ",\"state\":\"%s\",\"errno\":%d,\"least_ns\":%" PRIu64 ",\"most_ns\":%" PRIu64 "}",
	    label, pid, local, remote, sent, received, taken, state, error, least_ns, most_ns);
}

/* The same of a process that took all that arrived. */
static inline void say_close(const char *label, pid_t pid, uint16_t local, uint16_t remote, size_t sent,
			     size_t received, const char *state, int error, uint64_t least_ns, uint64_t most_ns)
{
	say_close_unread(label, pid, local, remote, sent, received, received, state, error, least_ns, most_ns);
}

/* ---- programs that start themselves again ---- */

/* Set in the environment of an exec, so that the new image tells about itself and ends. */
#define CASE_VARIABLE "TRAP_CASE"

/* Arguments as a JSON array of hexadecimal strings, in a buffer of its own. */
static inline const char *hex_arguments(char **arguments)
{
	static char out[LINE_SIZE / 2];
	size_t at = 0;

	at += (size_t)snprintf(out, sizeof(out), "[");
	for (int index = 0; arguments[index] != NULL; index++) {
		size_t length = strlen(arguments[index]);

		MUST(at + 2 * length + 8 < sizeof(out));
		at += (size_t)sprintf(out + at, "%s\"%s\"", index ? "," : "", hex(arguments[index], length));
	}
	sprintf(out + at, "]");
	return out;
}

/* What the image that runs now can say about itself, as an "exec" line. */
static inline void say_exec(const char *label, char **arguments)
{
	char path[4096], directory[4096], comm[16];
	ssize_t length = CHECK(readlink("/proc/self/exe", path, sizeof(path)));
	/* First, and not in the call below: it takes all of hex()'s buffers, and a compiler may evaluate arguments in any
	 * order. */
	const char *given = hex_arguments(arguments);
	struct stat found;

	CHECK(stat("/proc/self/exe", &found));
	MUST(getcwd(directory, sizeof(directory)) != NULL);
	CHECK(prctl(PR_GET_NAME, comm));
	say("{\"what\":\"exec\",\"label\":\"%s\",\"pid\":%d,\"tid\":%d,\"ppid\":%d,\"sid\":%d,\"uid\":%d"
	    ",\"gid\":%d,\"exe_hex\":\"%s\""
	    ",\"dev\":\"%u:%u\",\"inode\":%" PRIu64 ",\"cwd_hex\":\"%s\",\"comm_hex\":\"%s\",\"start_ticks\":%" PRIu64
	    ",\"netns\":%" PRIu64 ",\"pidns\":%" PRIu64 ",\"after_ns\":%" PRIu64 ",\"args_hex\":%s}",
	    label, getpid(), own_tid(), getppid(), getsid(0), getuid(), getgid(), hex(path, (size_t)length),
	    major(found.st_dev), minor(found.st_dev), (uint64_t)found.st_ino, hex(directory, strlen(directory)),
	    hex(comm, strlen(comm)), start_ticks(getpid()), namespace_inode("net"), namespace_inode("pid"), boot_ns(),
	    given);
}

#endif
