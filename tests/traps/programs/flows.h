/* What the programs about bytes share: how a flow is told, and sockets without a connection.
 *
 * A "flow" line is what one process moved on one socket with one peer, by what its own calls returned: bytes and calls
 * each way (packets, for what carries messages), and through what (`via`, words with spaces between them). `egress`
 * tells that this end began. An address of zeros is one that the program does not know. */
#ifndef FLOWS_H
#define FLOWS_H

#include "trap.h"

struct moved {
	uint64_t sent, received, sent_packets, received_packets;
};

/* Adds what a call that must not fail returned. */
static inline ssize_t count_sent(struct moved *moved, ssize_t count)
{
	if (count == -1)
		die("send", 0);
	moved->sent += (uint64_t)count;
	moved->sent_packets++;
	return count;
}

static inline ssize_t count_received(struct moved *moved, ssize_t count)
{
	if (count == -1)
		die("receive", 0);
	moved->received += (uint64_t)count;
	moved->received_packets++;
	return count;
}

/* A flow whose ends are known. */
static inline void say_flow_of(const char *label, const char *transport, const struct address *local,
			       const struct address *remote, const struct moved *moved, const char *via, bool egress)
{
	char near[INET6_ADDRSTRLEN] = "", far[INET6_ADDRSTRLEN] = "";
	uint16_t near_port = text_of(&local->storage, near), far_port = text_of(&remote->storage, far);

	say("{\"what\":\"flow\",\"label\":\"%s\",\"pid\":%d,\"tid\":%d,\"transport\":\"%s\",\"local_ip\":\"%s\""
	    ",\"local_port\":%u,\"remote_ip\":\"%s\",\"remote_port\":%u,\"netns\":%" PRIu64 ",\"sent\":%" PRIu64
	    ",\"received\":%" PRIu64 ",\"sent_packets\":%" PRIu64 ",\"received_packets\":%" PRIu64
	    ",\"via\":\"%s\",\"egress\":%s,\"after_ns\":%" PRIu64 "}",
	    label, getpid(), own_tid(), transport, near, near_port, far, far_port, namespace_inode("net"), moved->sent,
	    moved->received, moved->sent_packets, moved->received_packets, via, egress ? "true" : "false", boot_ns());
}

static inline struct address local_address(int handle)
{
	struct address address = {.length = sizeof(address.storage)};

	CHECK(getsockname(handle, (struct sockaddr *)&address.storage, &address.length));
	return address;
}

static inline struct address remote_address(int handle)
{
	struct address address = {.length = sizeof(address.storage)};

	CHECK(getpeername(handle, (struct sockaddr *)&address.storage, &address.length));
	return address;
}

struct ends {
	struct address local, remote;
};

/* The ends of a connected socket. To be asked while it is: one that is closed by both sides knows its peer no more. */
static inline struct ends ends_of(int handle)
{
	return (struct ends){local_address(handle), remote_address(handle)};
}

static inline void say_flow(const char *label, const char *transport, const struct ends *ends,
			    const struct moved *moved, const char *via, bool egress)
{
	say_flow_of(label, transport, &ends->local, &ends->remote, moved, via, egress);
}

/* A UDP socket, bound to the address, port 0 for any. */
static inline int udp_bound(const char *ip, uint16_t port)
{
	struct address address = address_of(ip, port);
	int handle = CHECK(socket(address.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));

	CHECK(bind(handle, (struct sockaddr *)&address.storage, address.length));
	return handle;
}

static inline void connect_to(int handle, const char *ip, uint16_t port)
{
	struct address address = address_of(ip, port);

	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
}

/* sendto, which must send all of it. */
static inline void send_to(int handle, const struct address *to, size_t size, struct moved *moved)
{
	static const char zeros[65536];

	MUST(count_sent(moved, sendto(handle, zeros, size, MSG_NOSIGNAL, (const struct sockaddr *)&to->storage,
				      to->length)) == (ssize_t)size);
}

/* One datagram, and where it came from is asked for: to a caller who doesn't ask, some kernels tell nobody else. */
static inline ssize_t take_datagram(int handle, struct moved *moved)
{
	static __thread char block[65536];
	struct address from = {.length = sizeof(from.storage)};

	return count_received(moved, recvfrom(handle, block, sizeof(block), 0, (struct sockaddr *)&from.storage,
					      &from.length));
}

/* What a process took out of a socket without asking where it came from: from these ports, all together. */
static inline void say_unasked(const char *label, const struct address *local, const uint16_t ports[2],
			       const struct moved *moved)
{
	char near[INET6_ADDRSTRLEN] = "";
	uint16_t near_port = text_of(&local->storage, near);

	say("{\"what\":\"unasked\",\"label\":\"%s\",\"pid\":%d,\"transport\":\"udp\",\"local_ip\":\"%s\",\"local_port\":%u"
	    ",\"from\":[%u,%u],\"netns\":%" PRIu64 ",\"received\":%" PRIu64 ",\"received_packets\":%" PRIu64 "}",
	    label, getpid(), near, near_port, ports[0], ports[1], namespace_inode("net"), moved->received,
	    moved->received_packets);
}

/* Waits for something to read, for at most some ten seconds. */
static inline void wait_readable(int handle)
{
	struct pollfd waiting = {handle, POLLIN, 0};

	MUST(CHECK(poll(&waiting, 1, 10000)) == 1);
}

/* Reads a stream to its end. */
static inline void drain(int handle, struct moved *moved)
{
	static __thread char block[65536];

	while (count_received(moved, recv(handle, block, sizeof(block), 0)) > 0)
		;
}

/* A process that accepts one TCP connection at the address, reads it to its end, answers with `answer` bytes and tells
 * both its flow and its end. Returns its pid; its port goes where the pointer says. */
static inline pid_t spawn_sink(const char *ip, const char *label, size_t answer, uint16_t *port)
{
	struct gate ready = new_gate();
	pid_t pid = spawn();

	if (pid == 0) {
		static const char zeros[65536];
		struct moved moved = {0};
		int listener = tcp_listener(ip, 0, 5), handle;
		struct ends ends;
		uint16_t own = local_port(listener);

		MUST(write(ready.ends[1], &own, sizeof(own)) == sizeof(own));
		handle = tcp_accept(listener, label);
		ends = ends_of(handle);
		drain(handle, &moved);
		for (size_t rest = answer; rest > 0;)
			rest -= (size_t)count_sent(
				&moved, send(handle, zeros, rest < sizeof(zeros) ? rest : sizeof(zeros), MSG_NOSIGNAL));
		say_flow(label, "tcp", &ends, &moved, "syscall", false);
		close(handle);
		_exit(0);
	}
	MUST(read(ready.ends[0], port, sizeof(*port)) == sizeof(*port));
	close(ready.ends[0]);
	close(ready.ends[1]);
	return pid;
}

/* Ends a connection to a sink: says all is sent, reads the answer, closes, waits for the sink. The flow is told before
 * it is closed. */
static inline void finish_with_sink(int handle, pid_t sink, const char *label, struct moved *moved, const char *via)
{
	struct ends ends = ends_of(handle);

	CHECK(shutdown(handle, SHUT_WR));
	drain(handle, moved);
	say_flow(label, "tcp", &ends, moved, via, true);
	close(handle);
	wait_success(sink);
}

#endif
