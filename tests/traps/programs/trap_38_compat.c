/* Trap 38: system calls of 32-bit programs have other numbers and other entries, and hooks on the calls of 64-bit programs
 * don't see them. This is a 64-bit program that makes them by `int 0x80`, as any may: by socketcall, through which 32-bit
 * programs do all with sockets, and by the calls that i386 has had of its own since 4.3. */
#include "flows.h"

#ifdef __x86_64__

/* Numbers of i386: its 102 is getuid of x86_64, its 42 (pipe) is connect there, its 49 (geteuid) bind. */
enum {
	I386_EXECVE = 11,
	I386_GETPID = 20,
	I386_CLOSE = 6,
	I386_READ = 3,
	I386_WRITE = 4,
	I386_SOCKETCALL = 102,
	I386_SOCKET = 359,
	I386_CONNECT = 362,
	I386_ACCEPT4 = 364,
	I386_SENDTO = 369,
	I386_RECVFROM = 371,
};

/* The functions of socketcall, of linux/net.h. */
enum { CALL_SOCKET = 1, CALL_CONNECT = 3, CALL_ACCEPT = 5, CALL_SEND = 9, CALL_RECV = 10, CALL_SENDTO = 11, CALL_RECVFROM = 12 };

/* What the calls point to must lie within the first 4 GiB. */
static struct low {
	uint32_t arguments[6];
	uint32_t length;
	struct sockaddr_in address;
	char block[65536];
	char path[64];
	uint32_t argv[2];
} *low;

static int call(int number, uint64_t one, uint64_t two, uint64_t three, uint64_t four, uint64_t five)
{
	int result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(one), "c"(two), "d"(three), "S"(four), "D"(five)
			 : "memory", "r8", "r9", "r10", "r11");
	errno = result < 0 ? -result : 0;
	return result;
}

static uint64_t at(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

static int socketcall(int function, uint32_t one, uint32_t two, uint32_t three, uint32_t four, uint32_t five, uint32_t six)
{
	uint32_t given[6] = {one, two, three, four, five, six};

	memcpy(low->arguments, given, sizeof(given));
	return call(I386_SOCKETCALL, (uint64_t)function, at(low->arguments), 0, 0, 0);
}

/* Whether this kernel has them: without, `int 0x80` is a fault. */
static bool able(void)
{
	pid_t pid = spawn();
	int status;

	if (pid == 0)
		_exit(call(I386_GETPID, 0, 0, 0, 0, 0) == getpid() ? 0 : 1);
	status = wait_for(pid);
	if (status == 0)
		return true;
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	return false;
}

static int must(int result)
{
	if (result < 0)
		die("int 0x80", __LINE__);
	return result;
}

static void place(uint16_t port)
{
	low->address = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

enum by { BY_SOCKETCALL, BY_OWN_CALL };

static const char *const labels[] = {"socketcall", "own-call"};

static int open_socket(enum by by, int kind)
{
	if (by == BY_SOCKETCALL)
		return must(socketcall(CALL_SOCKET, AF_INET, (uint32_t)kind, 0, 0, 0, 0));
	return must(call(I386_SOCKET, AF_INET, (uint64_t)kind, 0, 0, 0));
}

static int connect_by(enum by by, int handle)
{
	if (by == BY_SOCKETCALL)
		return socketcall(CALL_CONNECT, (uint32_t)handle, (uint32_t)at(&low->address), sizeof(low->address), 0, 0, 0);
	return call(I386_CONNECT, (uint64_t)handle, at(&low->address), sizeof(low->address), 0, 0);
}

static int send_by(enum by by, int handle, size_t count)
{
	if (by == BY_SOCKETCALL)
		return must(socketcall(CALL_SEND, (uint32_t)handle, (uint32_t)at(low->block), (uint32_t)count, 0, 0, 0));
	return must(call(I386_SENDTO, (uint64_t)handle, at(low->block), count, 0, 0));
}

static int receive_by(enum by by, int handle, size_t count)
{
	if (by == BY_SOCKETCALL)
		return must(socketcall(CALL_RECV, (uint32_t)handle, (uint32_t)at(low->block), (uint32_t)count, 0, 0, 0));
	return must(call(I386_RECVFROM, (uint64_t)handle, at(low->block), count, 0, 0));
}

/* Accepts by the same means, takes 9,001 bytes and sends 307. */
static void server(enum by by, int listener)
{
	struct moved moved = {0};
	struct ends ends;
	int handle;

	if (by == BY_SOCKETCALL)
		handle = must(socketcall(CALL_ACCEPT, (uint32_t)listener, 0, 0, 0, 0, 0));
	else
		handle = must(call(I386_ACCEPT4, (uint64_t)listener, 0, 0, 0, 0));
	ends = ends_of(handle);
	say_socket("accept", handle, "\"label\":\"%s\",\"after_ns\":%" PRIu64, labels[by], boot_ns());
	while (moved.received < 9001)
		count_received(&moved, receive_by(by, handle, sizeof(low->block)));
	count_sent(&moved, must(call(I386_WRITE, (uint64_t)handle, at(low->block), 307, 0, 0)));
	say_flow(labels[by], "tcp", &ends, &moved, "syscall", false);
	must(call(I386_CLOSE, (uint64_t)handle, 0, 0, 0, 0));
	_exit(0);
}

static void stream(enum by by)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle;
	struct moved moved = {0};
	struct ends ends;
	uint64_t before;
	pid_t pid = spawn();

	if (pid == 0)
		server(by, listener);
	handle = open_socket(by, SOCK_STREAM);
	place(local_port(listener));
	before = boot_ns();
	must(connect_by(by, handle));
	ends = ends_of(handle);
	say_socket("connect", handle, "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64,
		   labels[by], before, boot_ns());
	while (moved.sent < 9001) {
		size_t rest = 9001 - moved.sent;

		count_sent(&moved, send_by(by, handle, rest < 1009 ? rest : 1009));
	}
	while (moved.received < 307)
		count_received(&moved, must(call(I386_READ, (uint64_t)handle, at(low->block), 101, 0, 0)));
	say_flow(labels[by], "tcp", &ends, &moved, "syscall", true);
	must(call(I386_CLOSE, (uint64_t)handle, 0, 0, 0, 0));
	wait_success(pid);
	close(listener);
}

static void datagrams(enum by by)
{
	int from = open_socket(by, SOCK_DGRAM), to = udp_bound(LOOPBACK, 0);
	struct address there = local_address(to), near;
	struct moved sent = {0}, received = {0};

	place(local_port(to));
	for (int number = 0; number < 7; number++) {
		int done;

		if (by == BY_SOCKETCALL)
			done = socketcall(CALL_SENDTO, (uint32_t)from, (uint32_t)at(low->block), 500 + (uint32_t)number, 0,
					  (uint32_t)at(&low->address), sizeof(low->address));
		else {
			/* Six arguments: the last is in ebp, which no inline assembly may name. */
			must(connect_by(by, from));
			done = send_by(by, from, 500 + (size_t)number);
		}
		count_sent(&sent, must(done));
		if (by == BY_SOCKETCALL) {
			low->length = sizeof(low->address);
			count_received(&received, must(socketcall(CALL_RECVFROM, (uint32_t)to, (uint32_t)at(low->block),
								  sizeof(low->block), 0, (uint32_t)at(&low->address),
								  (uint32_t)at(&low->length))));
			place(local_port(to));
		} else {
			near = local_address(from);
			CHECK(connect(to, (struct sockaddr *)&near.storage, near.length));
			count_received(&received, receive_by(by, to, sizeof(low->block)));
		}
	}
	near = local_address(from);
	say_flow_of(labels[by], "udp", &near, &there, &sent, "syscall", true);
	if (by == BY_SOCKETCALL) {
		struct sockaddr_in *bound = (struct sockaddr_in *)&near.storage;

		bound->sin_addr.s_addr = htonl(INADDR_LOOPBACK); /* never bound: what arrived tells where it came from */
	}
	say_flow_of(labels[by], "udp", &there, &near, &received, "syscall", false);
	close(from);
	close(to);
}

/* Nobody listens; and no route. */
static void failing(enum by by)
{
	int holder = tcp_bound(LOOPBACK, 0);

	for (int which = 0; which < 2; which++) {
		int handle = open_socket(by, SOCK_STREAM), wanted = which ? ENETUNREACH : ECONNREFUSED;
		uint64_t before = boot_ns(), after;

		place(local_port(holder));
		if (which)
			low->address.sin_addr.s_addr = inet_addr("192.0.2.1");
		MUST(connect_by(by, handle) == -wanted);
		after = boot_ns();
		say("{\"what\":\"connect\",\"label\":\"%s\",\"pid\":%d,\"tid\":%d,\"local_port\":%u,\"remote_ip\":\"%s\""
		    ",\"remote_port\":%u,\"netns\":%" PRIu64 ",\"errno\":%d,\"result\":%d,\"before_ns\":%" PRIu64
		    ",\"after_ns\":%" PRIu64 ",\"done_ns\":%" PRIu64 "}",
		    labels[by], getpid(), own_tid(), which ? 0 : local_port(handle), which ? "192.0.2.1" : LOOPBACK,
		    local_port(holder), namespace_inode("net"), wanted, wanted, before, after, after);
		close(handle);
	}
	close(holder);
}

/* The program that an exec by `int 0x80` starts, and one that it can't find. */
static void executes(void)
{
	pid_t pid = spawn();

	if (pid == 0) {
		snprintf(low->path, sizeof(low->path), "/no/such/program");
		low->argv[0] = (uint32_t)at(low->path);
		low->argv[1] = 0;
		MUST(call(I386_EXECVE, at(low->path), at(low->argv), 0, 0, 0) == -ENOENT);
		say("{\"what\":\"exec-failed\",\"pid\":%d,\"errno\":%d,\"after_ns\":%" PRIu64 "}", getpid(), ENOENT, boot_ns());
		snprintf(low->path, sizeof(low->path), "/proc/self/exe");
		call(I386_EXECVE, at(low->path), at(low->argv), 0, 0, 0);
		die("execve", __LINE__);
	}
	wait_success(pid);
}

static void tell(char **arguments)
{
	say_exec("executed", arguments);
}

#endif

int main(int count, char **arguments)
{
	(void)count;
	(void)arguments;
#ifdef __x86_64__
	if (strcmp(arguments[0], "/proc/self/exe") == 0) {
		tell(arguments);
		return 0;
	}
	start_truth();
	own_netns();
	low = mmap(NULL, sizeof(*low), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	MUST(low != MAP_FAILED);
	if (!able()) {
		missing("32-bit system calls");
		return 0;
	}
	for (int by = BY_SOCKETCALL; by <= BY_OWN_CALL; by++) {
		stream((enum by)by);
		datagrams((enum by)by);
		failing((enum by)by);
	}
	executes();
#else
	start_truth();
	missing("32-bit system calls by int 0x80, which are x86's");
#endif
	return 0;
}
