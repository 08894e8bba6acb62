/* Trap 16: what goes past TCP and UDP: packet sockets, ICMP by raw and by ping sockets, IP protocols without a name, SCTP,
 * UDP-Lite, MPTCP, vsock. Each side of each is a process of its own. */
#include "flows.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/vm_sockets.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef VMADDR_CID_LOCAL
#define VMADDR_CID_LOCAL 1
#endif
#define IPPROTO_EXPERIMENT 253 /* RFC 3692 */
#define COUNT 7

static char block[65536];

/* A flow of which the program knows neither address nor port. */
static void say_bare(const char *label, const char *transport, const struct moved *moved, const char *via, bool egress)
{
	struct address none = address_of("0.0.0.0", 0);

	say_flow_of(label, transport, &none, &none, moved, via, egress);
}

static bool lacks(int handle, const char *facility)
{
	if (handle != -1)
		return false;
	MUST(errno == EPROTONOSUPPORT || errno == EAFNOSUPPORT || errno == ESOCKTNOSUPPORT || errno == EACCES ||
	     errno == ENODEV || errno == EADDRNOTAVAIL || errno == ENETUNREACH || errno == ENOPROTOOPT);
	missing(facility);
	return true;
}

/* Frames with an EtherType for experiments, over the loopback interface, with and without their header. */
static void packets(const char *label, int kind, uint16_t type, size_t header)
{
	struct sockaddr_ll there = {.sll_family = AF_PACKET,
				    .sll_protocol = htons(type),
				    .sll_ifindex = (int)if_nametoindex("lo"),
				    .sll_halen = 6};
	int to = socket(AF_PACKET, kind | SOCK_CLOEXEC, htons(type)), from;
	struct moved sent = {0};
	pid_t pid;

	if (lacks(to, "packet sockets"))
		return;
	CHECK(bind(to, (struct sockaddr *)&there, sizeof(there)));
	pid = spawn();
	if (pid == 0) {
		struct moved received = {0};

		for (int number = 0; number < COUNT; number++) {
			wait_readable(to);
			count_received(&received, recv(to, block, sizeof(block), 0));
		}
		say_bare(label, "packet", &received, "packet", false);
		_exit(0);
	}
	from = CHECK(socket(AF_PACKET, kind | SOCK_CLOEXEC, 0)); /* 0: receives nothing */
	memset(block, 0, 14);
	block[12] = (char)(type >> 8);
	block[13] = (char)type;
	for (int number = 0; number < COUNT; number++)
		count_sent(&sent, sendto(from, block, header + 400 + (size_t)number, 0, (struct sockaddr *)&there,
					 sizeof(there)));
	say_bare(label, "packet", &sent, "packet", true);
	close(from);
	wait_success(pid);
	close(to);
}

static uint16_t checksum(const void *bytes, size_t count)
{
	const uint16_t *at = bytes;
	uint32_t sum = 0;

	for (; count > 1; count -= 2)
		sum += *at++;
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint16_t)~(sum + (sum >> 16));
}

/* Echo requests to the loopback address, which the kernel answers. A raw socket of IPv4 gives the IP header too. */
static void echo(const char *label, const char *ip, int handle, const char *transport)
{
	struct address there = address_of(ip, 0);
	bool six = there.storage.ss_family == AF_INET6;
	struct moved moved = {0};

	for (int number = 0; number < COUNT; number++) {
		size_t size = sizeof(struct icmphdr) + 48 + 2 * (size_t)number;
		struct icmphdr *header = (struct icmphdr *)block;

		memset(block, 0, size);
		header->type = six ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
		header->un.echo.id = htons(4242);
		header->un.echo.sequence = htons((uint16_t)number);
		if (!six)
			header->checksum = checksum(block, size); /* that of IPv6 is the kernel's work */
		MUST(count_sent(&moved, sendto(handle, block, size, 0, (struct sockaddr *)&there.storage, there.length)) ==
		     (ssize_t)size);
		wait_readable(handle);
		count_received(&moved, recv(handle, block, sizeof(block), 0));
	}
	MUST(recv(handle, block, sizeof(block), MSG_DONTWAIT) == -1 && errno == EAGAIN);
	{
		struct address any = address_of(six ? "::" : "0.0.0.0", 0);

		say_flow_of(label, transport, &any, &there, &moved, "syscall", true);
	}
	close(handle);
	_exit(0);
}

static void raw_icmp(void)
{
	uint32_t all_but_replies = ~(1u << ICMP_ECHOREPLY);
	int handle = CHECK(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));

	CHECK(setsockopt(handle, SOL_RAW, 1 /* ICMP_FILTER */, &all_but_replies, sizeof(all_but_replies)));
	echo("raw-icmp", LOOPBACK, handle, "icmp");
}

static void raw_icmp6(void)
{
	struct icmp6_filter filter;
	int handle = CHECK(socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6));

	ICMP6_FILTER_SETBLOCKALL(&filter);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
	CHECK(setsockopt(handle, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof(filter)));
	echo("raw-icmp6", "::1", handle, "ipv6-icmp");
}

static void ping(void)
{
	write_file("/proc/sys/net/ipv4/ping_group_range", "0 0");
	echo("ping", LOOPBACK, CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP)), "icmp");
}

static void ping6(void)
{
	write_file("/proc/sys/net/ipv4/ping_group_range", "0 0");
	echo("ping6", "::1", CHECK(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMPV6)), "ipv6-icmp");
}

/* The sender of raw IP, whose header is the kernel's work or its own. */
static void raw_sender(const char *label, const char *ip, int kind)
{
	int from = CHECK(socket(strchr(ip, ':') ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, kind));
	struct address there = address_of(ip, 0), any = address_of(strchr(ip, ':') ? "::" : "0.0.0.0", 0);
	struct moved sent = {0};

	for (int number = 0; number < COUNT; number++) {
		size_t size = 601 + (size_t)number;

		memset(block, 0, size);
		if (kind == IPPROTO_RAW) {
			struct iphdr *header = (struct iphdr *)block;

			size += sizeof(*header);
			*header = (struct iphdr){.version = 4,
						 .ihl = 5,
						 .ttl = 64,
						 .protocol = IPPROTO_EXPERIMENT,
						 .tot_len = htons((uint16_t)size),
						 .saddr = htonl(INADDR_LOOPBACK),
						 .daddr = htonl(INADDR_LOOPBACK)};
		}
		MUST(count_sent(&sent, sendto(from, block, size, 0, (struct sockaddr *)&there.storage, there.length)) ==
		     (ssize_t)size);
	}
	say_flow_of(label, "raw", &any, &there, &sent, "syscall", true);
	_exit(0);
}

static void raw_ip(const char *label, const char *ip, int kind)
{
	int to = CHECK(socket(strchr(ip, ':') ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_EXPERIMENT));
	struct address from = address_of(ip, 0), any = address_of(strchr(ip, ':') ? "::" : "0.0.0.0", 0);
	struct moved received = {0};
	pid_t pid = spawn();

	if (pid == 0)
		raw_sender(label, ip, kind);
	for (int number = 0; number < COUNT; number++) {
		wait_readable(to);
		count_received(&received, recv(to, block, sizeof(block), 0));
	}
	say_flow_of(label, "raw", &any, &from, &received, "syscall", false);
	wait_success(pid);
	close(to);
	_exit(0);
}

static void raw_ip4(void)
{
	raw_ip("raw-ip", LOOPBACK, IPPROTO_EXPERIMENT);
}

static void raw_ip6(void)
{
	raw_ip("raw-ip6", "::1", IPPROTO_EXPERIMENT);
}

static void raw_header(void)
{
	raw_ip("raw-header", LOOPBACK, IPPROTO_RAW);
}

static int listening(int protocol, const char *ip)
{
	struct address here = address_of(ip, 0);
	int listener = socket(here.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, protocol);

	if (listener == -1)
		return -1;
	CHECK(bind(listener, (struct sockaddr *)&here.storage, here.length));
	CHECK(listen(listener, 5));
	return listener;
}

/* Connected both ways: `COUNT` pieces one way, one back. */
static void answering(int handle, const char *label, const char *transport, bool bare)
{
	struct moved moved = {0};
	struct ends ends = {0};

	if (!bare)
		ends = ends_of(handle);
	while (moved.received < 1001 * COUNT)
		count_received(&moved, recv(handle, block, sizeof(block), 0));
	MUST(count_sent(&moved, send(handle, block, 2003, 0)) == 2003);
	if (bare)
		say_bare(label, transport, &moved, "syscall", false);
	else
		say_flow(label, transport, &ends, &moved, "syscall", false);
	MUST(recv(handle, block, sizeof(block), 0) == 0);
	close(handle);
	_exit(0);
}

static void asking(int handle, const char *label, const char *transport, bool bare)
{
	struct moved moved = {0};
	struct ends ends = {0};

	if (!bare)
		ends = ends_of(handle);
	for (int number = 0; number < COUNT; number++)
		MUST(count_sent(&moved, send(handle, block, 1001, 0)) == 1001);
	while (moved.received < 2003)
		count_received(&moved, recv(handle, block, sizeof(block), 0));
	if (bare)
		say_bare(label, transport, &moved, "syscall", true);
	else
		say_flow(label, transport, &ends, &moved, "syscall", true);
	close(handle);
}

/* A connection of a protocol whose calls are those of TCP. */
static void connected(const char *label, const char *transport, int protocol, const char *ip, const char *facility)
{
	int listener = listening(protocol, ip), handle;
	struct address there;
	pid_t pid;

	if (lacks(listener, facility))
		_exit(0);
	there = local_address(listener);
	pid = spawn();
	if (pid == 0)
		answering(CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC)), label, transport, false);
	handle = CHECK(socket(there.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, protocol));
	CHECK(connect(handle, (struct sockaddr *)&there.storage, there.length));
	asking(handle, label, transport, false);
	wait_success(pid);
	_exit(0);
}

static void sctp(void)
{
	connected("sctp", "sctp", IPPROTO_SCTP, LOOPBACK, "SCTP");
}

static void sctp6(void)
{
	connected("sctp6", "sctp", IPPROTO_SCTP, "::1", "SCTP");
}

static void mptcp(void)
{
	connected("mptcp", "mptcp", IPPROTO_MPTCP, LOOPBACK, "MPTCP");
}

/* One socket of SCTP for many peers: an association comes to be by the first message. */
static void sctp_many(void)
{
	struct address here = address_of(LOOPBACK, 0), there;
	int to = socket(AF_INET, SOCK_SEQPACKET | SOCK_CLOEXEC, IPPROTO_SCTP), from;
	struct moved sent = {0}, received = {0};
	struct ends ends;
	pid_t pid;

	if (lacks(to, "SCTP"))
		_exit(0);
	CHECK(bind(to, (struct sockaddr *)&here.storage, here.length));
	CHECK(listen(to, 5));
	from = CHECK(socket(AF_INET, SOCK_SEQPACKET | SOCK_CLOEXEC, IPPROTO_SCTP));
	CHECK(bind(from, (struct sockaddr *)&here.storage, here.length));
	there = local_address(to);
	ends = (struct ends){local_address(from), there};
	pid = spawn();
	if (pid == 0) {
		struct ends back = {there, ends.local};

		close(from);
		for (int number = 0; number < COUNT; number++)
			count_received(&received, recv(to, block, sizeof(block), 0));
		say_flow("sctp-many", "sctp", &back, &received, "syscall", false);
		_exit(0);
	}
	for (int number = 0; number < COUNT; number++)
		send_to(from, &there, 701 + (size_t)number, &sent);
	say_flow("sctp-many", "sctp", &ends, &sent, "syscall", true);
	wait_success(pid);
	_exit(0);
}

static void udplite(void)
{
	struct address here = address_of(LOOPBACK, 0);
	int to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE), from;
	struct moved sent = {0}, received = {0};
	struct ends near, far;
	pid_t pid;

	if (lacks(to, "UDP-Lite")) /* taken out in 7.1 */
		_exit(0);
	CHECK(bind(to, (struct sockaddr *)&here.storage, here.length));
	from = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDPLITE));
	connect_to(from, LOOPBACK, local_port(to));
	near = ends_of(from);
	far = (struct ends){near.remote, near.local};
	pid = spawn();
	if (pid == 0) {
		for (int number = 0; number < COUNT; number++)
			take_datagram(to, &received);
		say_flow("udplite", "udplite", &far, &received, "syscall", false);
		_exit(0);
	}
	for (int number = 0; number < COUNT; number++)
		count_sent(&sent, send(from, block, 801 + (size_t)number, 0));
	say_flow("udplite", "udplite", &near, &sent, "syscall", true);
	wait_success(pid);
	_exit(0);
}

/* A machine that speaks with itself as host and guest speak. */
static void vsock(void)
{
	struct sockaddr_vm there = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = VMADDR_PORT_ANY};
	socklen_t length = sizeof(there);
	int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), handle;
	pid_t pid;

	if (lacks(listener, "vsock"))
		_exit(0);
	if (bind(listener, (struct sockaddr *)&there, sizeof(there)) == -1) {
		lacks(-1, "vsock loopback");
		_exit(0);
	}
	CHECK(listen(listener, 5));
	CHECK(getsockname(listener, (struct sockaddr *)&there, &length));
	there.svm_cid = VMADDR_CID_LOCAL;
	pid = spawn();
	if (pid == 0)
		answering(CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC)), "vsock", "vsock", true);
	handle = CHECK(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
	CHECK(connect(handle, (struct sockaddr *)&there, sizeof(there)));
	say("{\"what\":\"vsock\",\"pid\":%d,\"port\":%u}", getpid(), there.svm_port);
	asking(handle, "vsock", "vsock", true);
	wait_success(pid);
	_exit(0);
}

static void packet_raw(void)
{
	packets("packet-raw", SOCK_RAW, 0x88b5, 14);
	_exit(0);
}

static void packet_datagram(void)
{
	packets("packet-datagram", SOCK_DGRAM, 0x88b6, 0);
	_exit(0);
}

int main(void)
{
	static void (*const cases[])(void) = {packet_raw, packet_datagram, raw_icmp,  raw_icmp6, ping,  ping6,
					      raw_ip4,    raw_ip6,         raw_header, sctp,      sctp6, sctp_many,
					      udplite,    mptcp,           vsock};

	start_truth();
	own_netns();
	for (unsigned index = 0; index < sizeof(cases) / sizeof(*cases); index++) {
		pid_t pid = spawn();

		if (pid == 0)
			cases[index]();
		wait_success(pid);
	}
	return 0;
}
