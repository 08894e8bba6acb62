// SPDX-License-Identifier: Apache-2.0
/* Rows without ports: ICMP by ping and raw sockets, raw IP, and frames by packet sockets. */
#include "traffic.h"

#include <linux/icmp.h>
#include <linux/if_ether.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netpacket/packet.h>

#define ECHOES 31
#define PROTOCOL 253 /* for experiments (RFC 3692) */
#define ETHERTYPE 0x88b5 /* for experiments (IEEE 802) */
#define FRAMES 503
#define HEADER 14
#ifndef SOL_RAW
#define SOL_RAW 255
#endif

static const char *ip;
static int type, protocol;

static bool is_six(void)
{
	return strchr(ip, ':') != NULL;
}

static uint16_t checksum(const void *bytes, size_t count)
{
	const unsigned char *in = bytes;
	uint32_t sum = 0;

	for (size_t at = 0; at < count; at++)
		sum += at % 2 ? in[at] : (uint32_t)in[at] << 8;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* An echo request of so many bytes, header and all. A ping socket puts in the id, and both the IPv6 checksum. */
static void make_echo(char *bytes, size_t count, unsigned turn)
{
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo = {htons(4242), htons((uint16_t)turn)}};

	if (is_six())
		echo.type = ICMP6_ECHO_REQUEST;
	memcpy(bytes, payload(), count);
	memcpy(bytes, &echo, sizeof(echo));
	if (!is_six()) {
		echo.checksum = checksum(bytes, count);
		memcpy(bytes, &echo, sizeof(echo));
	}
}

/* The kernel at the other end answers; a raw socket gets no more than the answers. */
static void echo(void)
{
	struct address to = address_of(ip, 0);
	uint32_t answers_only = ~(1u << ICMP_ECHOREPLY);
	struct flow *flow;
	char request[1500];
	int handle;

	if (type == SOCK_DGRAM)
		write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	handle = any_socket(&to, type, protocol);
	if (type == SOCK_RAW && !is_six())
		CHECK(setsockopt(handle, SOL_RAW, ICMP_FILTER, &answers_only, sizeof(answers_only)));
	if (type == SOCK_RAW && is_six()) {
		struct icmp6_filter filter;

		ICMP6_FILTER_SETBLOCKALL(&filter);
		ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
		CHECK(setsockopt(handle, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof(filter)));
	}
	connect_to(handle, &to);
	flow = flow_with(handle, is_six() ? "ipv6-icmp" : "icmp", SYSCALL, &to); /* no port: getpeername fails */
	for (unsigned turn = 0; turn < ECHOES; turn++) {
		size_t count = prime_from(64 + turn * 37);

		make_echo(request, count, turn);
		MUST(CHECK(sent(flow, send(handle, request, count, 0))) == (ssize_t)count);
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) >= (ssize_t)count);
	}
	close(handle);
}

static void run_echo(const char *to, int socket_type, int icmp)
{
	ip = to;
	type = socket_type;
	protocol = icmp;
	begin(NEAR, echo);
	finish();
}

static void ping(void)
{
	run_echo(FAR_IP, SOCK_DGRAM, IPPROTO_ICMP);
}

static void ping_six(void)
{
	run_echo(FAR_IP6, SOCK_DGRAM, IPPROTO_ICMPV6);
}

static void raw_icmp(void)
{
	run_echo(FAR_IP, SOCK_RAW, IPPROTO_ICMP);
}

static void raw_icmp_six(void)
{
	run_echo(FAR_IP6, SOCK_RAW, IPPROTO_ICMPV6);
}

/* Raw IP: each end has a socket of the protocol; with IP_HDRINCL the sender writes the header, too. */

static struct message ready;
static const char *near_ip;

static void answer_raw(void)
{
	struct address here = address_of(ip, 0), from;
	int handle = any_socket(&here, SOCK_RAW, PROTOCOL);

	bind_to(handle, &here);
	tell(ready, 1);
	for (unsigned turn = 0; turn < ECHOES; turn++) {
		struct flow *flow;
		ssize_t got;

		from.length = sizeof(from.storage);
		got = CHECK(recvfrom(handle, room(), CHUNK, 0, (struct sockaddr *)&from.storage, &from.length));
		flow = flow_with(handle, "raw", SYSCALL, &from);
		received(flow, got);
		CHECK(sent(flow, sendto(handle, payload(), prime_from((unsigned)got / 2), 0,
					(struct sockaddr *)&from.storage, from.length)));
	}
	close(handle);
}

static void ask_raw(void)
{
	struct address to = address_of(ip, 0), here = address_of(near_ip, 0);
	int handle = any_socket(&to, SOCK_RAW, PROTOCOL);
	struct flow *flow;

	bind_to(handle, &here);
	hear(ready);
	connect_to(handle, &to);
	flow = flow_with(handle, "raw", SYSCALL, &to);
	for (unsigned turn = 0; turn < ECHOES; turn++) {
		CHECK(sent(flow, send(handle, payload(), prime_from(64 + turn * 37), 0)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
	close(handle);
}

static void run_raw(const char *near, const char *far)
{
	near_ip = near;
	ip = far;
	ready = new_message();
	begin(FAR, answer_raw);
	begin(NEAR, ask_raw);
	finish();
}

static void raw(void)
{
	run_raw(NEAR_IP, FAR_IP);
}

static void raw_six(void)
{
	run_raw(NEAR_IP6, FAR_IP6);
}

/* A socket of IPPROTO_RAW only sends. */
static void send_with_header(void)
{
	struct address to = address_of(FAR_IP, 0), here = address_of(NEAR_IP, 0);
	int out = any_socket(&to, SOCK_RAW, IPPROTO_RAW), in = any_socket(&to, SOCK_RAW, PROTOCOL);
	struct flow *flow, *back;

	bind_to(out, &here);
	bind_to(in, &here);
	connect_to(out, &to);
	connect_to(in, &to);
	flow = flow_with(out, "raw", SYSCALL, &to);
	back = flow_with(in, "raw", SYSCALL, &to);
	hear(ready);
	for (unsigned turn = 0; turn < ECHOES; turn++) {
		struct iphdr header = {.version = 4, .ihl = 5, .ttl = 64, .protocol = PROTOCOL};
		size_t count = prime_from(64 + turn * 37);
		char packet[1500];

		header.saddr = ((const struct sockaddr_in *)&here.storage)->sin_addr.s_addr;
		header.daddr = ((const struct sockaddr_in *)&to.storage)->sin_addr.s_addr;
		memcpy(packet, payload(), count);
		memcpy(packet, &header, sizeof(header)); /* the kernel fills in the length and the checksum */
		MUST(CHECK(sent(flow, send(out, packet, count, 0))) == (ssize_t)count);
		MUST(CHECK(received(back, recv(in, room(), CHUNK, 0))) > 0);
	}
	close(out);
	close(in);
}

static void with_header(void)
{
	ip = FAR_IP;
	ready = new_message();
	begin(FAR, answer_raw);
	begin(NEAR, send_with_header);
	finish();
}

/* Frames of an Ethernet type that no other has: no IP, no address but the interface. */

static const char *link_name;

static int packet_socket(struct sockaddr_ll *name)
{
	int handle = CHECK(socket(AF_PACKET, type | SOCK_CLOEXEC, htons(ETHERTYPE)));

	limit_waits(handle);
	*name = (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_halen = 6};
	name->sll_ifindex = (int)link_index(link_name);
	memset(name->sll_addr, 0xff, 6);
	CHECK(bind(handle, (struct sockaddr *)name, sizeof(*name)));
	return handle;
}

/* One frame to everybody on the link; a raw packet socket writes the header itself. */
static void send_frame(int handle, struct flow *flow, const struct sockaddr_ll *to, size_t count)
{
	static char frame[1500 + HEADER];
	const uint16_t ethertype = htons(ETHERTYPE);

	if (type == SOCK_RAW) {
		memset(frame, 0xff, 6);
		memset(frame + 6, 2, 6);
		memcpy(frame + 12, &ethertype, 2);
	}
	MUST(CHECK(sent(flow, sendto(handle, frame, count, 0, (const struct sockaddr *)to, sizeof(*to)))) ==
	     (ssize_t)count);
}

static void answer_frames(void)
{
	struct sockaddr_ll to;
	struct flow *flow;
	int handle;

	link_name = FAR_LINK;
	handle = packet_socket(&to);
	flow = flow_of(handle, "packet", "packet");
	tell(ready, 1);
	for (unsigned turn = 0; turn < FRAMES; turn++) {
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
		send_frame(handle, flow, &to, prime_from(60 + turn));
	}
	close(handle);
}

static void ask_frames(void)
{
	struct sockaddr_ll to;
	struct flow *flow;
	int handle;

	hear(ready);
	link_name = NEAR_LINK;
	handle = packet_socket(&to);
	flow = flow_of(handle, "packet", "packet");
	for (unsigned turn = 0; turn < FRAMES; turn++) {
		send_frame(handle, flow, &to, prime_from(200 + turn));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
	close(handle);
}

static void run_frames(int socket_type)
{
	type = socket_type;
	ready = new_message();
	begin(FAR, answer_frames);
	begin(NEAR, ask_frames);
	finish();
}

static void frames(void)
{
	run_frames(SOCK_RAW);
}

static void cooked_frames(void)
{
	run_frames(SOCK_DGRAM);
}

const struct row raw_rows[] = {
	{"ping", "ICMP echo by a ping socket", ping},
	{"ping-ipv6", "the same over IPv6", ping_six},
	{"icmp", "ICMP echo by a raw socket", raw_icmp},
	{"icmp-ipv6", "the same over IPv6", raw_icmp_six},
	{"raw", "IP protocol 253, both ways", raw},
	{"raw-ipv6", "the same over IPv6", raw_six},
	{"raw-header", "IPPROTO_RAW: the sender writes the IP header", with_header},
	{"packet", "Ethernet frames by AF_PACKET", frames},
	{"packet-cooked", "the same without their headers", cooked_frames},
	{0},
};
