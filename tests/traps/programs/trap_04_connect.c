/* Trap 4: how a connect ends. Each case is a process of its own, most of them non-blocking, all at the same time.
 *
 * A "connect" line has errno as the connect call itself left it and result as the kernel's last word (SO_ERROR), 0 for
 * success; done_ns bounds the moment of that word.
 */
#include <linux/rtnetlink.h>
#include <linux/veth.h>

#include "trap.h"

#define PAYLOAD 101

static int start(const char *ip, uint16_t port, int flags, uint64_t *before)
{
	struct address address = address_of(ip, port);
	int handle = tcp_socket(ip, SOCK_CLOEXEC | flags);

	*before = boot_ns();
	errno = 0;
	if (connect(handle, (struct sockaddr *)&address.storage, address.length) == 0)
		errno = 0;
	return handle;
}

/* The final error of a non-blocking connect that has begun: waits for it, if need be. */
static int outcome(int handle)
{
	struct pollfd waiting = {handle, POLLOUT, 0};
	int error = -1;
	socklen_t length = sizeof(error);

	MUST(CHECK(poll(&waiting, 1, 30000)) == 1);
	CHECK(getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &length));
	return error;
}

static void tell(const char *label, uint16_t local, const char *ip, uint16_t port, int call_errno, int result,
		 uint64_t before, uint64_t called, uint64_t done)
{
	say("{\"what\":\"connect\",\"label\":\"%s\",\"pid\":%d,\"tid\":%d,\"local_port\":%u"
	    ",\"remote_ip\":\"%s\",\"remote_port\":%u,\"netns\":%" PRIu64
	    ",\"errno\":%d,\"result\":%d,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64 ",\"done_ns\":%" PRIu64 "}",
	    label, getpid(), own_tid(), local, ip, port, namespace_inode("net"), call_errno, result, before, called,
	    done);
}

/* A non-blocking connect followed to its outcome. */
static int follow(const char *label, const char *ip, uint16_t port, int expected)
{
	uint64_t before, called;
	int handle = start(ip, port, SOCK_NONBLOCK, &before), error = errno, result = error;

	called = boot_ns();
	if (error == EINPROGRESS)
		result = outcome(handle);
	if (result != expected) {
		errno = result;
		die(label, __LINE__);
	}
	tell(label, local_port(handle), ip, port, error, result, before, called, boot_ns());
	return handle;
}

static void success(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle, accepted;
	uint16_t port = local_port(listener), local;
	uint64_t before = boot_ns(), opened, established, closing, life;

	handle = follow("success", LOOPBACK, port, 0);
	opened = boot_ns();
	local = local_port(handle);
	established = wait_established(port, local);
	accepted = tcp_accept(listener, "success");
	send_exactly(handle, PAYLOAD);
	closing = boot_ns();
	close(handle);
	MUST(receive_all(accepted) == PAYLOAD);
	close(accepted);
	life = wait_gone(local, port) - before;
	say_close("success", getpid(), local, port, PAYLOAD, 0, "FIN_WAIT2", 0, closing - opened, life);
	say_close("success", getpid(), port, local, 0, PAYLOAD, "LAST_ACK", 0, closing - established, life);
}

static void refused(void)
{
	int holder = tcp_bound(LOOPBACK, 0); /* bound, not listening: nobody else can take the port */

	close(follow("refused", LOOPBACK, local_port(holder), ECONNREFUSED));
}

/* A listener whose queue is full drops what comes: the connect times out when TCP_USER_TIMEOUT says so. */
static void timed_out(const char *label, unsigned milliseconds)
{
	int listener = tcp_listener(LOOPBACK, 0, 0), filler, handle, error, result;
	uint16_t port = local_port(listener);
	struct address address = address_of(LOOPBACK, port);
	uint64_t before, called;

	filler = tcp_connect(LOOPBACK, port, "filler");
	handle = tcp_socket(LOOPBACK, SOCK_NONBLOCK | SOCK_CLOEXEC);
	CHECK(setsockopt(handle, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof(milliseconds)));
	before = boot_ns();
	MUST(connect(handle, (struct sockaddr *)&address.storage, address.length) == -1);
	error = errno;
	called = boot_ns();
	result = outcome(handle);
	MUST(result == ETIMEDOUT);
	tell(label, local_port(handle), LOOPBACK, port, error, result, before, called, boot_ns());
	(void)filler;
}

/* Nothing but a loopback interface: no route to anywhere else. */
static void no_route(void)
{
	own_netns();
	close(follow("no-route", "192.0.2.1", 443, ENETUNREACH));
}

/* One rtnetlink request that makes a pair of connected interfaces. */
static bool make_veth(const char *one, const char *other)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
		char attributes[256];
	} request = {.header = {.nlmsg_type = RTM_NEWLINK,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK}};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char rest[512];
	} answer;
	int handle = CHECK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	char *at = request.attributes;
	struct rtattr *info, *data, *peer;

#define OPEN(kind)                                            \
	({                                                    \
		struct rtattr *opened_ = (struct rtattr *)at; \
		opened_->rta_type = (kind);                   \
		at += RTA_LENGTH(0);                          \
		opened_;                                      \
	})
#define SHUT(attribute) ((attribute)->rta_len = (unsigned short)(at - (char *)(attribute)))
#define TEXT(kind, text)                                        \
	({                                                      \
		struct rtattr *text_ = OPEN(kind);              \
		memcpy(at, text, strlen(text) + 1);             \
		at += strlen(text) + 1;                         \
		SHUT(text_);                                    \
		at = (char *)text_ + RTA_ALIGN(text_->rta_len); \
	})
	TEXT(IFLA_IFNAME, one);
	info = OPEN(IFLA_LINKINFO);
	TEXT(IFLA_INFO_KIND, "veth");
	data = OPEN(IFLA_INFO_DATA);
	peer = OPEN(VETH_INFO_PEER);
	at += sizeof(struct ifinfomsg);
	TEXT(IFLA_IFNAME, other);
	SHUT(peer);
	SHUT(data);
	SHUT(info);
	request.header.nlmsg_len = (unsigned)(at - (char *)&request);
	MUST(send(handle, &request, request.header.nlmsg_len, 0) == (ssize_t)request.header.nlmsg_len);
	CHECK(recv(handle, &answer, sizeof(answer), 0));
	close(handle);
	MUST(answer.header.nlmsg_type == NLMSG_ERROR);
	errno = -answer.error.error;
	return errno == 0;
}

static void interface_up(const char *name, const char *ip)
{
	int handle = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct ifreq request = {0};

	strcpy(request.ifr_name, name);
	if (ip != NULL) {
		struct address address = address_of(ip, 0);

		memcpy(&request.ifr_addr, &address.storage, sizeof(request.ifr_addr));
		CHECK(ioctl(handle, SIOCSIFADDR, &request));
		address = address_of("255.255.255.0", 0);
		memcpy(&request.ifr_netmask, &address.storage, sizeof(request.ifr_netmask));
		CHECK(ioctl(handle, SIOCSIFNETMASK, &request));
	}
	memset(&request.ifr_ifru, 0, sizeof(request.ifr_ifru));
	CHECK(ioctl(handle, SIOCGIFFLAGS, &request));
	request.ifr_flags |= IFF_UP;
	CHECK(ioctl(handle, SIOCSIFFLAGS, &request));
	close(handle);
}

/* On the link, but nobody answers for the address: three unanswered requests of ARP. */
static void no_neighbour(void)
{
	own_netns();
	if (!make_veth("near", "far")) {
		missing("veth");
		return;
	}
	/* A third of a second between the three, so that it is over well before a pending connect would be reported. */
	write_file("/proc/sys/net/ipv4/neigh/near/retrans_time_ms", "300");
	interface_up("near", "192.0.2.1");
	interface_up("far", NULL);
	close(follow("no-neighbour", "192.0.2.77", 443, EHOSTUNREACH));
}

static void reset(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle, accepted, error = 0;
	uint16_t port = local_port(listener), local;
	uint64_t before = boot_ns(), opened, established, closing, life;
	struct linger now = {1, 0};
	socklen_t length = sizeof(error);

	handle = follow("reset", LOOPBACK, port, 0);
	opened = boot_ns();
	local = local_port(handle);
	established = wait_established(port, local);
	accepted = tcp_accept(listener, "reset");
	send_exactly(accepted, PAYLOAD);
	CHECK(fcntl(handle, F_SETFL, 0));
	MUST(receive_up_to(handle, PAYLOAD) == PAYLOAD);
	CHECK(setsockopt(accepted, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	closing = boot_ns();
	close(accepted);
	life = wait_gone(local, port) - before;
	CHECK(getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &length));
	MUST(error == ECONNRESET);
	say_close("reset", getpid(), local, port, 0, PAYLOAD, "ESTABLISHED", ECONNRESET, closing - opened, life);
	say_close("reset", getpid(), port, local, PAYLOAD, 0, "ESTABLISHED", 0, closing - established, life);
}

/* A blocking connect with SO_SNDTIMEO gives up waiting with EINPROGRESS while the kernel goes on; then the socket is
 * closed. */
static void gave_up(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 0), filler, handle, error;
	uint16_t port = local_port(listener), local;
	struct address address = address_of(LOOPBACK, port);
	struct timeval patience = {0, 300000};
	uint64_t before, called;

	filler = tcp_connect(LOOPBACK, port, "filler");
	handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
	CHECK(setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)));
	before = boot_ns();
	MUST(connect(handle, (struct sockaddr *)&address.storage, address.length) == -1);
	error = errno;
	called = boot_ns();
	MUST(error == EINPROGRESS);
	sleep_ms(200);
	local = local_port(handle);
	close(handle);
	tell("gave-up", local, LOOPBACK, port, error, error, before, called, boot_ns());
	(void)filler;
}

/* Every port that the kernel may choose is taken. */
static void no_port(void)
{
	int first, second, handle, error;
	uint64_t before;

	own_netns();
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001");
	first = tcp_bound("0.0.0.0", 40000);
	second = tcp_bound("0.0.0.0", 40001);
	handle = start(LOOPBACK, 443, 0, &before);
	error = errno;
	MUST(error == EADDRNOTAVAIL);
	tell("no-port", local_port(handle), LOOPBACK, 443, error, error, before, boot_ns(), boot_ns());
	close(first);
	close(second);
	close(handle);
}

/* A second connect of a socket that is connected changes nothing. */
static void again(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle;
	uint16_t port = local_port(listener);
	struct address address = address_of(LOOPBACK, port);
	uint64_t before = boot_ns();

	handle = tcp_connect(LOOPBACK, port, "again-first");
	before = boot_ns();
	MUST(connect(handle, (struct sockaddr *)&address.storage, address.length) == -1);
	MUST(errno == EISCONN);
	tell("again", local_port(handle), LOOPBACK, port, EISCONN, EISCONN, before, boot_ns(), boot_ns());
}

static void timed_out_soon(void)
{
	timed_out("timed-out", 1500);
}

static void timed_out_late(void)
{
	timed_out("pending", 4500); /* long enough to be reported as attempted first */
}

int main(void)
{
	static void (*const cases[])(void) = {success,      refused, timed_out_soon, timed_out_late, no_route,
					      no_neighbour, reset,   gave_up,        no_port,        again};
	pid_t pids[sizeof(cases) / sizeof(*cases)];

	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	for (unsigned index = 0; index < sizeof(cases) / sizeof(*cases); index++) {
		pids[index] = spawn();
		if (pids[index] == 0) {
			cases[index]();
			_exit(0);
		}
	}
	for (unsigned index = 0; index < sizeof(cases) / sizeof(*cases); index++)
		wait_success(pids[index]);
	return 0;
}
