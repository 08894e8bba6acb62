// SPDX-License-Identifier: Apache-2.0
/* UDP rows: connected, to many peers, small, silent, and UDP-Lite. The two sides keep step, so that nothing is lost. */
#include "traffic.h"

#define TURNS 1009
#define SMALL 20011
#define SMALL_BYTES 7
#define STEP 61 /* datagrams in flight at most */
#define PEERS 7

static const char *transport = "udp";

/* Receives a datagram, which must be one, and counts it as its sender's; `from` is that. */
static ssize_t take(int handle, struct address *from)
{
	ssize_t got;

	from->length = sizeof(from->storage);
	got = CHECK(recvfrom(handle, room(), CHUNK, 0, (struct sockaddr *)&from->storage, &from->length));
	return received(flow_with(handle, transport, SYSCALL, from), got);
}

static void give(int handle, const struct address *to, size_t count)
{
	ssize_t went =
		CHECK(sendto(handle, payload(), count, 0, (const struct sockaddr *)&to->storage, to->length));

	MUST(went == (ssize_t)count);
	sent(flow_with(handle, transport, SYSCALL, to), went); /* by now the socket has a port */
}

/* Answers each with something else, until there were so many. */
static void answer(int handle, unsigned count)
{
	while (count-- > 0) {
		struct address from;
		ssize_t got = take(handle, &from);

		give(handle, &from, prime_from((unsigned)got / 2 + 2));
	}
}

static void answer_turns(int handle)
{
	answer(handle, TURNS);
}

/* Connected: send and recv. */
static void ask_connected(int handle, const struct address *server)
{
	struct flow *flow;

	connect_to(handle, server);
	flow = flow_of(handle, transport, SYSCALL);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		CHECK(sent(flow, send(handle, payload(), prime_from(2 + turn * 61 % 1447), 0)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
}

static void connected(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = answer_turns, .client = ask_connected});
}

static void connected_six(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP6, .server = answer_turns, .client = ask_connected});
}

static void home(void)
{
	run_duo(&(struct duo){HOME, HOME, LOOPBACK, .server = answer_turns, .client = ask_connected});
}

/* Large ones, in fragments. */
static void ask_large(int handle, const struct address *server)
{
	struct flow *flow;

	connect_to(handle, server);
	flow = flow_of(handle, transport, SYSCALL);
	for (unsigned turn = 0; turn < 31; turn++) {
		CHECK(sent(flow, send(handle, payload(), prime_from(50000 + turn * 499), 0)));
		MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) > 0);
	}
}

static void answer_large(int handle)
{
	answer(handle, 31);
}

static void large(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = answer_large, .client = ask_large});
}

/* Several peers of one socket that is neither connected nor bound: one process with as many sockets. */

static struct message port;
static const char *peer_ip;

static void serve_peers(void)
{
	struct pollfd sockets[PEERS];
	unsigned left = TURNS;

	for (int which = 0; which < PEERS; which++) {
		struct address address = address_of(peer_ip, 0);

		sockets[which] = (struct pollfd){any_socket(&address, SOCK_DGRAM, IPPROTO_UDP), POLLIN, 0};
		bind_to(sockets[which].fd, &address);
		tell(port, local_port(sockets[which].fd));
	}
	while (left > 0) {
		MUST(poll(sockets, PEERS, 20000) > 0);
		for (int which = 0; which < PEERS; which++)
			if (sockets[which].revents & POLLIN) {
				answer(sockets[which].fd, 1);
				left--;
			}
	}
}

static void ask_peers(void)
{
	struct address peers[PEERS], from;
	int handle;

	for (int which = 0; which < PEERS; which++)
		peers[which] = address_of(peer_ip, (uint16_t)hear(port));
	handle = any_socket(&peers[0], SOCK_DGRAM, IPPROTO_UDP);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		/* Not one after the other, and not to all the same. */
		give(handle, &peers[(turn * 3 + turn / PEERS) % PEERS], prime_from(2 + turn));
		take(handle, &from);
	}
}

static void to_peers(const char *ip)
{
	peer_ip = ip;
	port = new_message();
	begin(FAR, serve_peers);
	begin(NEAR, ask_peers);
	finish();
}

static void unconnected(void)
{
	to_peers(FAR_IP);
}

static void unconnected_six(void)
{
	to_peers(FAR_IP6);
}

/* Small ones, a step at a time; after each the server says that it has them. */

static void take_small(int handle)
{
	struct address from;

	for (unsigned turn = 1; turn <= SMALL; turn++) {
		take(handle, &from);
		if (turn % STEP == 0 || turn == SMALL)
			give(handle, &from, 1);
	}
}

static void give_small(int handle, const struct address *server)
{
	struct flow *flow;

	connect_to(handle, server);
	flow = flow_of(handle, transport, SYSCALL);
	for (unsigned turn = 1; turn <= SMALL; turn++) {
		MUST(CHECK(sent(flow, send(handle, payload(), SMALL_BYTES, 0))) == SMALL_BYTES);
		if (turn % STEP == 0 || turn == SMALL)
			MUST(CHECK(received(flow, recv(handle, room(), CHUNK, 0))) == 1);
	}
}

static void small(void)
{
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = take_small, .client = give_small});
}

/* Who receives never sends, and has no more of the other than its address; read with MSG_PEEK first. */

static struct message taken;

static void take_silently(int handle)
{
	for (unsigned turn = 0; turn < 101; turn++) {
		struct address from = {.length = sizeof(from.storage)};

		CHECK(recvfrom(handle, room(), 10, MSG_PEEK, (struct sockaddr *)&from.storage, &from.length));
		take(handle, &from);
		tell(taken, turn);
	}
}

static void give_only(int handle, const struct address *server)
{
	for (unsigned turn = 0; turn < 101; turn++) {
		give(handle, server, prime_from(500 + turn));
		hear(taken);
	}
}

static void silent(void)
{
	taken = new_message();
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = take_silently, .client = give_only});
}

/* Of a datagram that is longer than the buffer the rest is dropped: the call returns what it copied. */

static void take_part(int handle)
{
	for (unsigned turn = 0; turn < 101; turn++) {
		struct address from = {.length = sizeof(from.storage)};
		ssize_t got = CHECK(recvfrom(handle, room(), 503, 0, (struct sockaddr *)&from.storage, &from.length));

		MUST(got == 503);
		received(flow_with(handle, transport, SYSCALL, &from), got);
		tell(taken, turn);
	}
}

static void cut(void)
{
	taken = new_message();
	run_duo(&(struct duo){FAR, NEAR, FAR_IP, .server = take_part, .client = give_only});
}

static void lite(void)
{
	transport = "udplite";
	run_duo(&(struct duo){
		FAR, NEAR, FAR_IP, .protocol = IPPROTO_UDPLITE, .server = answer_turns, .client = ask_connected});
}

static void lite_six(void)
{
	transport = "udplite";
	run_duo(&(struct duo){
		FAR, NEAR, FAR_IP6, .protocol = IPPROTO_UDPLITE, .server = answer_turns, .client = ask_connected});
}

const struct row datagram_rows[] = {
	{"udp", "connected, both ways", connected},
	{"udp-ipv6", "the same over IPv6", connected_six},
	{"udp-loopback", "the same over the loopback of the tracer's own namespace", home},
	{"udp-peers", "one socket that is not connected, seven peers", unconnected},
	{"udp-peers-ipv6", "the same over IPv6", unconnected_six},
	{"udp-large", "datagrams that go in fragments", large},
	{"udp-small", "20,011 datagrams of 7 bytes", small},
	{"udp-silent", "a receiver that looks first and never sends", silent},
	{"udp-cut", "datagrams that are longer than the buffer", cut},
	{"udplite", "UDP-Lite, both ways", lite},
	{"udplite-ipv6", "the same over IPv6", lite_six},
	{0},
};
