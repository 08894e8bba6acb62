// SPDX-License-Identifier: Apache-2.0
/* Flows: what this process has moved on its sockets, by peer. */
#include "traffic.h"

#include <linux/sockios.h>
#include <linux/vm_sockets.h>
#include <netpacket/packet.h>
#include <pthread.h>

#define FLOWS 1024

static struct flow flows[FLOWS];
static unsigned known;
static pid_t owner;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* An address as text, and its port; a packet socket has none, one of vsock has a context id. */
static uint16_t describe(const struct sockaddr_storage *from, char *text)
{
	const struct sockaddr_vm *vm = (const void *)from;

	switch (from->ss_family) {
	case AF_INET:
	case AF_INET6:
		return text_of(from, text);
	case AF_VSOCK:
		snprintf(text, INET6_ADDRSTRLEN, "%u", vm->svm_cid);
		return (uint16_t)vm->svm_port; /* told modulo 65536 */
	default:
		text[0] = '\0';
		return 0;
	}
}

/* The network namespace of a socket (SIOCGSKNS, 4.10). */
static uint64_t netns_of(int handle)
{
	int file = CHECK(ioctl(handle, SIOCGSKNS));
	struct stat found;

	CHECK(fstat(file, &found));
	close(file);
	return found.st_ino;
}

static bool same(const struct flow *one, const struct flow *other)
{
	return one->netns == other->netns && one->local_port == other->local_port &&
	       one->remote_port == other->remote_port && !strcmp(one->transport, other->transport) &&
	       !strcmp(one->local, other->local) && !strcmp(one->remote, other->remote);
}

struct flow *flow_with(int handle, const char *transport, const char *via, const struct address *peer)
{
	struct flow *found = NULL, wanted = {.transport = transport, .via = via, .netns = netns_of(handle)};
	struct address local = name_of(handle);

	wanted.local_port = describe(&local.storage, wanted.local);
	if (peer != NULL)
		wanted.remote_port = describe(&peer->storage, wanted.remote);
	pthread_mutex_lock(&lock);
	if (owner != getpid()) { /* what the parent has counted is the parent's */
		known = 0;
		owner = getpid();
	}
	for (unsigned at = 0; at < known && found == NULL; at++)
		if (same(&flows[at], &wanted))
			found = &flows[at];
	if (found == NULL) {
		MUST(known < FLOWS);
		found = &flows[known++];
		*found = wanted;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

struct flow *flow_of(int handle, const char *transport, const char *via)
{
	struct address peer = {.length = sizeof(peer.storage)};

	if (getpeername(handle, (struct sockaddr *)&peer.storage, &peer.length) == 0)
		return flow_with(handle, transport, via, &peer);
	return flow_with(handle, transport, via, NULL);
}

ssize_t sent(struct flow *flow, ssize_t result)
{
	if (result > 0) {
		__atomic_fetch_add(&flow->sent, (uint64_t)result, __ATOMIC_RELAXED);
		__atomic_fetch_add(&flow->sends, 1, __ATOMIC_RELAXED);
	}
	return result;
}

ssize_t received(struct flow *flow, ssize_t result)
{
	if (result > 0) {
		__atomic_fetch_add(&flow->received, (uint64_t)result, __ATOMIC_RELAXED);
		__atomic_fetch_add(&flow->receives, 1, __ATOMIC_RELAXED);
	}
	return result;
}

void say_flows(void)
{
	if (owner != getpid())
		return;
	for (struct flow *flow = flows; flow < flows + known; flow++)
		say("{\"what\":\"flow\",\"pid\":%d,\"start\":%" PRIu64 ",\"exe\":\"%s\",\"netns\":%" PRIu64
		    ",\"transport\":\"%s\",\"via\":\"%s\",\"local\":\"%s\",\"local_port\":%u,\"remote\":\"%s\""
		    ",\"remote_port\":%u,\"sent\":%" PRIu64 ",\"received\":%" PRIu64 ",\"sends\":%" PRIu64
		    ",\"receives\":%" PRIu64 "}",
		    getpid(), start_ticks(getpid()), own_path(), flow->netns, flow->transport, flow->via, flow->local,
		    flow->local_port, flow->remote, flow->remote_port, flow->sent, flow->received, flow->sends,
		    flow->receives);
}
