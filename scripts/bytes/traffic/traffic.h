// SPDX-License-Identifier: Apache-2.0
/*
 * What the rows of the generator share: places, pairs of processes, and flows, which count what the calls returned.
 *
 * A row runs in a process of its own, which forks those that move the bytes. Each of these counts its own calls and
 * prints a "flow" line for every flow it had when it ends.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include "trap.h"

/* HOME is the network namespace that the generator was started in; the check made the others, and a veth pair between. */
enum place { HOME, NEAR, FAR, PLACES };

#define NEAR_IP "192.0.2.1"
#define FAR_IP "192.0.2.2"
#define NEAR_IP6 "2001:db8::1"
#define FAR_IP6 "2001:db8::2"
#define NEAR_LINK "near0"
#define FAR_LINK "far0"

#define CHUNK 65521 /* the largest prime below 64 KiB */
#define BULK 33554393 /* below 32 MiB */
#define LOT 1048573 /* below 1 MiB */

#define SYSCALL "syscall"

struct flow {
	const char *transport, *via;
	char local[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];
	uint16_t local_port, remote_port;
	uint64_t netns; /* the socket's, whatever the process's is */
	uint64_t sent, received; /* bytes, as the calls returned them */
	uint64_t sends, receives; /* calls, or messages, that moved some */
};

struct row {
	const char *name, *about;
	void (*run)(void);
};

extern const struct row stream_rows[], path_rows[], datagram_rows[], message_rows[], raw_rows[], owner_rows[],
	uring_rows[], other_rows[];

/* ---- flows (flow.c) ---- */

/* The flow of a connected socket, or of one end alone when `peer` is NULL and it is not connected. */
struct flow *flow_of(int handle, const char *transport, const char *via);
/* The flow of this process on this socket with this peer: made when it is new. */
struct flow *flow_with(int handle, const char *transport, const char *via, const struct address *peer);
/* Count what a call has returned; nothing when it failed. Returns its argument. May be called by any thread. */
ssize_t sent(struct flow *flow, ssize_t result);
ssize_t received(struct flow *flow, ssize_t result);
void say_flows(void);

/* ---- processes and places (ends.c) ---- */

/* Once, by main(): where the namespaces are. */
void find_places(const char *near, const char *far);
/* To another network namespace. The file systems stay, but /proc/sys/net is that of the namespace. */
void enter(enum place place);
/* Forks a process that does its work there, tells its flows and ends. */
pid_t begin(enum place place, void (*work)(void));
/* A kernel without: the row is not run. Ends the calling process, errno tells why; `what` is a word. */
void not_here(const char *what) __attribute__((noreturn));
/* The end of a row: waits for all that was begun. */
void finish(void);

/* What a process tells another: one number through a pipe. */
struct message {
	int ends[2];
};
struct message new_message(void);
void tell(struct message message, uint64_t number);
uint64_t hear(struct message message);

/* A connection of two processes. Each gets its end and the flow of it; the server accepts one connection. */
struct pair {
	enum place server_place, client_place;
	const char *ip; /* the server's */
	const char *transport, *via;
	int type, protocol; /* SOCK_STREAM and IPPROTO_TCP if 0 */
	void (*server)(int handle, struct flow *flow);
	void (*client)(int handle, struct flow *flow);
	void (*prepare)(int listener); /* before listen(2), may be NULL */
	int (*connect)(const struct address *to); /* instead of socket(2) and connect(2), may be NULL */
};
void run_pair(const struct pair *pair);

/* Two processes with a datagram socket each. The server's is bound to `ip`; the client knows its port. */
struct duo {
	enum place server_place, client_place;
	const char *ip;
	int protocol; /* IPPROTO_UDP if 0 */
	void (*server)(int handle);
	void (*client)(int handle, const struct address *server);
};
void run_duo(const struct duo *duo);

/* The last two fields of most of them. */
int any_socket(const struct address *address, int type, int protocol);
void bind_to(int handle, const struct address *address);
void connect_to(int handle, const struct address *address);
struct address name_of(int handle);
uint32_t link_index(const char *name);
/* Nothing waits longer for the other side. */
void limit_waits(int handle);

/* ---- moving bytes (moves.c) ---- */

/* What is sent: bytes that differ, and room for what is received; of the calling thread. */
char *payload(void);
char *room(void);
/* With send and recv in portions of CHUNK; pull ends with the count or at the end of the stream. */
void push(int handle, struct flow *flow, size_t count);
void pull(int handle, struct flow *flow, size_t count);
void pull_all(int handle, struct flow *flow);
/* Both at once, each in a thread of its own. */
void push_and_pull(int handle, struct flow *flow, size_t out, size_t in);
void half_close(int handle);
/* The smallest prime that is not below. */
unsigned prime_from(unsigned number);

#endif
