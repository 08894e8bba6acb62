/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bytes that a call has moved, added to whom they belong: for the probes of data.bpf.c and
 * of moves.bpf.c alike.
 */
#ifndef DATA_BPF_H
#define DATA_BPF_H

#include "socket.bpf.h"

/* The datagram that a task has just handed to a device, or taken from a queue: its other end is in no socket that is
 * not connected. Of each task, not of each CPU: until its call ends a task may sleep, be preempted and moved.
 * `ended`: how many calls have ended since, 2 standing for more; `sk`, where it is known, through which socket. */
struct talk {
	u64 sk;
	u32 ended;
	u16 local_port;		/* host order */
	u16 port;
	u8 local[16];
	u8 peer[16];
	u32 protocol;
	u32 local_known;
	u32 named;		/* the caller named the peer, whatever the socket is connected to */
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);	/* tid, and in the lowest bit whether it was sent */
	__type(value, struct talk);
} talks SEC(".maps");

static __always_inline u64 talk_key(const bool out)
{
	return (u64)(u32)bpf_get_current_pid_tgid() << 1 | out;
}

static __always_inline struct talk *find_talk(const bool out)
{
	u64 key = talk_key(out);

	return bpf_map_lookup_elem(MAP(talks), &key);
}

/* `known` is what find_talk() has found: nobody else writes there. */
static __always_inline void keep_talk(struct talk *known, const struct talk *talk, const bool out)
{
	u64 key = talk_key(out);

	if (known)
		*known = *talk;
	else
		bpf_map_update_elem(MAP(talks), &key, talk, BPF_ANY);
}

static __always_inline void call_ended(struct talk *talk)
{
	if (talk && talk->ended < 2)
		talk->ended++;
}

#ifdef MAKES_PARTS

/* Whether it is no process that moves a connection's bytes: then they are its owner's. What sends runs in a call, or in
 * a thread of the kernel (sockmaps); what takes out of the queue also in a softirq, on whatever task that has
 * interrupted. The socket is locked by whoever takes in a call, and no more when a send has ended. */
static __always_inline bool not_by_current(const struct sock *sk, const struct socket_state *s, const bool from_queue,
					   const bool typed)
{
	if (s->kernels || task_flags() & PF_KTHREAD)
		return true;
	return from_queue && !FIELD(typed, sk, sk_lock.owned);
}

/*
 * What calls each other here, with what it calls in turn, has 512 bytes of stack, and a record takes half of that
 * (each has its own since 6.13 only). So parts are made by one function, and told of by another.
 */

/* The record is of what the current process does. */
static __always_inline void own_record(struct socket_record *r)
{
	struct task_struct *leader = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);
	u64 ids = bpf_get_current_pid_tgid();

	r->h.tgid = ids >> 32;
	r->h.tid = ids;
	r->h.start = boot_start(leader);
	r->uid = bpf_get_current_uid_gid();
	r->cgroup = bpf_get_current_cgroup_id();
	bpf_core_read(&r->comm, sizeof(r->comm), &leader->comm);
}

/* A process that is not the owner has moved the first bytes of a connection. */
static __noinline int tell_of_another(void *ctx, const struct sock *sk, const struct socket_state *s, u32 slot)
{
	struct tally *t = tally_of(KIND_OWNER);
	struct socket_record r;

	if (!t)
		return 0;
	if (!slot)
		count(&t->map_full);
	fill(&r, s, KIND_OWNER);
	own_record(&r);
	read_addresses(&r, sk, false);
	r.slot = slot;
	r.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	ship(ctx, &r, false, t);
	return 0;
}

/* A process that is not the owner moves bytes of a connection: a part of its own. */
static __always_inline u32 part_of_another(void *ctx, const struct sock *sk, struct socket_state *s, u32 tgid)
{
	struct part_key key = {};
	u64 start;
	u32 slot;

	key.sk = (u64)sk;
	key.tgid = tgid;
	slot = known_part(&key, s->flow);
	if (slot)
		return slot;
	start = current_start();
	if (is_excluded(tgid, start))
		return 0;
	slot = new_part(&key, s->flow, s->flow, start, true);
	s->parts = 2;
	tell_of_another(ctx, sk, s, slot);
	return slot;
}

/* Of the connection with this socket, whose first bytes these are. */
__noinline u32 first_part_of_owner(u64 sk)
{
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &sk);
	struct part_key key = {};

	if (!s) {
		s = bpf_map_lookup_elem(MAP(tails), &sk);
		if (!s)
			return 0;
	}
	key.tgid = s->tgid;
	s->slot = new_part(&key, s->flow, s->flow, s->start, false);
	return s->slot;
}

/* The current process is the owner of the connection with this socket, which nobody was so far. */
__noinline int take_over(u64 sk)
{
	struct socket_state *known = bpf_map_lookup_elem(MAP(sockets), &sk), s = {};

	if (!known)
		return 0;
	own_by_current(&s);
	known->start = s.start;
	known->cgroup = s.cgroup;
	known->tid = s.tid;
	known->uid = s.uid;
	known->excluded = s.excluded;
	__builtin_memcpy(known->comm, s.comm, COMM_LEN);
	*(volatile u32 *)&known->tgid = s.tgid;	/* the last, as in accepted() */
	return 0;
}

static __noinline int tell_of_accept(void *ctx, const struct sock *sk, struct socket_state *s)
{
	report(ctx, s, sk, KIND_ACCEPT, TCP_SYN_RECV, 0, false);
	return 0;
}

static __noinline int tell_of_close(void *ctx, const struct sock *sk, const struct socket_state *s)
{
	report_last(ctx, s, sk, (u64)sk, s->state_at_close, s->error, false);
	return 0;
}

/* As accepted(). */
static __always_inline void accepted_unseen(void *ctx, const struct sock *sk, struct socket_state *s)
{
	take_over(address_of(sk));
	tell_of_accept(ctx, sk, s);
	if (*(volatile u8 *)&s->sock_flags & SOCK_CLOSED)
		tell_of_close(ctx, sk, s);
}

static __always_inline void stream_moved(void *ctx, const struct sock *sk, u64 bytes, const bool out,
					 const bool from_queue, const bool typed)
{
	u64 key = (u64)sk;
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	u32 tgid = bpf_get_current_pid_tgid() >> 32, slot;
	bool nobody, mine;

	if (!s) {
		s = bpf_map_lookup_elem(MAP(tails), &key);
		if (!s) {
			account(0, bytes, out ? WENT_OUT : 0);
			return;
		}
	}
	if (s->excluded)
		return;
	nobody = not_by_current(sk, s, from_queue, typed);
	/* Accepted in a way that isn't seen: whoever moves its first byte has it. */
	if (s->role == ROLE_ACCEPT && !s->tgid && !nobody)
		accepted_unseen(ctx, sk, s);
	mine = nobody || tgid == s->tgid;
	if (!mine)
		slot = part_of_another(ctx, sk, s, tgid);
	else if (part_of_owner(s))
		slot = s->slot;
	else
		slot = first_part_of_owner(address_of(sk));
	account(slot, bytes, (out ? WENT_OUT : 0) | (nobody ? 0 : VIA_NOW));
}

/* Since when the last look more was taken out of the receive queue, whatever call did that. */
static __always_inline void stream_consumed(void *ctx, const struct sock *sk, const bool typed)
{
	u64 key = (u64)sk, now;
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	s64 bytes;

	if (!s) {
		s = bpf_map_lookup_elem(MAP(tails), &key);
		if (!s)
			return;
	}
	now = consumed(sk, typed);
	bytes = now - s->consumed;
	if (bytes <= 0)
		return;
	s->consumed = now;
	stream_moved(ctx, sk, bytes, false, true, typed);
}

#endif /* MAKES_PARTS */

static __always_inline bool same_address(const u8 *one, const u8 *other)
{
	return ((const u64 *)one)[0] == ((const u64 *)other)[0] && ((const u64 *)one)[1] == ((const u64 *)other)[1];
}

static __always_inline void map_ipv4(u8 *to, u32 address)
{
	((u64 *)to)[0] = 0;
	((u32 *)to)[2] = 0xffff0000;
	((u32 *)to)[3] = address;
}

#ifdef MAKES_PARTS

/* The other end of a datagram: whom the caller named, else that of the socket if it is connected, else the
 * one that this very task has seen go by. Nothing is known of what waited for a neighbour's address. */
static __always_inline void find_peer(struct part_key *key, const struct sock *sk, struct talk *talk, const bool out,
				      u16 family, u16 protocol, u16 sport, const bool typed)
{
	bool seen = talk && !talk->ended && talk->protocol == protocol;

	if (family != AF_INET && family != AF_INET6)
		return;
	if (out && seen && talk->named && talk->sk == (u64)sk)
		goto by_talk;
	key->port = __builtin_bswap16(FIELD(typed, sk, __sk_common.skc_dport));
	if (key->port) {
		if (family == AF_INET)
			map_ipv4(key->peer, FIELD(typed, sk, __sk_common.skc_daddr));
		else
			bpf_core_read(key->peer, 16, &sk->__sk_common.skc_v6_daddr);
		return;
	}
	if (!seen)
		return;
	if (talk->sk ? talk->sk != (u64)sk : out || (talk->local_port && talk->local_port != sport))
		return;
by_talk:
	key->port = talk->port;
	((u64 *)key->peer)[0] = ((u64 *)talk->peer)[0];
	((u64 *)key->peer)[1] = ((u64 *)talk->peer)[1];
}

/* What a socket without a connection begins to move, to or from another peer or by another process. */
struct beginning {
	u64 flow;
	u64 opened;
	u32 slot;
	u32 out;
};

static __noinline int tell_of_part(void *ctx, const struct socket_state *s, const struct part_key *key,
				   const struct beginning *begun)
{
	const struct sock *sk = (const void *)key->sk;
	const struct talk *talk = find_talk(begun->out);
	struct tally *t = tally_of(KIND_FLOW);
	struct socket_record r;

	if (!t)
		return 0;
	if (!begun->slot)
		count(&t->map_full);
	fill_at(&r, begun->opened, s, KIND_FLOW);
	if (key->tgid) {
		own_record(&r);
		r.h.flags = 0;
	} else {
		r.h.flags = FLAG_KERNEL;
		r.h.tgid = r.h.tid = r.uid = 0;
		r.h.start = r.cgroup = 0;
	}
	r.flow = begun->flow;
	r.opened = begun->opened;
	r.role = begun->out ? ROLE_SENT : ROLE_RECEIVED;
	read_addresses(&r, sk, false);
	/* What is no address of the network's has none of its own here. */
	if (r.family == AF_PACKET || r.family == AF_VSOCK) {
		__builtin_memset(r.saddr, 0, 16);
		r.sport = 0;
	}
	__builtin_memcpy(r.daddr, key->peer, 16);
	r.dport = key->port;
	if (talk && talk->ended == 1 && talk->protocol == s->protocol && talk->local_known &&
	    same_address(talk->peer, key->peer) && talk->port == key->port)
		__builtin_memcpy(r.saddr, talk->local, 16);
	r.slot = begun->slot;
	r.protocol = s->protocol;
	r.type = BPF_CORE_READ(sk, sk_type);
	r.via = !key->tgid ? 0 : r.family == AF_PACKET ? VIA_PACKET : via_now();
	ship(ctx, &r, false, t);
	return 0;
}

static __always_inline u32 another_part(void *ctx, struct socket_state *s, const struct part_key *key, const bool out)
{
	struct beginning begun = {};
	u64 start = 0;
	u32 slot;

	slot = known_part(key, s->flow);
	if (slot) {
		s->slot = slot;
		return slot;
	}
	if (key->tgid) {
		start = current_start();
		if (is_excluded(key->tgid, start))
			return 0;
	}
	begun.opened = bpf_ktime_get_boot_ns();
	begun.flow = new_flow(begun.opened);
	begun.out = out;
	begun.slot = new_part(key, begun.flow, s->flow, start, true);
	if (begun.slot) {
		s->slot = begun.slot;
		if (s->parts < 2)
			s->parts++;
	}
	tell_of_part(ctx, s, key, &begun);
	return begun.slot;
}

__noinline int new_socket(u64 key, u32 sport, u32 protocol, u32 role)
{
	struct socket_state s = {};

	s.opened = bpf_ktime_get_boot_ns();
	s.flow = new_flow(s.opened);
	s.role = role;
	s.sport = sport;
	s.protocol = protocol;
	own(&s, (const void *)key, false);
	remember(key, &s, KIND_FLOW);
	return 0;
}

static __always_inline void datagram_moved(void *ctx, const struct sock *sk, u16 family, u64 bytes, const bool out,
					   const bool typed)
{
	struct part_key key = {};
	struct socket_state *s;
	struct place *place;
	struct talk *talk;
	struct part *part;
	u16 sport, protocol;
	u32 at, slot, nobody;

	key.sk = (u64)sk;
	s = bpf_map_lookup_elem(MAP(sockets), &key.sk);
	sport = family == AF_INET || family == AF_INET6 ? FIELD(typed, sk, __sk_common.skc_num) : 0;
	protocol = family == AF_INET || family == AF_INET6 ? FIELD(typed, sk, sk_protocol) : 0;
	/* An entry may be of a socket that had this address before. */
	if (!s || s->role < ROLE_SENT || s->sport != sport || s->protocol != protocol) {
		new_socket(address_of(sk), sport, protocol, out ? ROLE_SENT : ROLE_RECEIVED);
		s = bpf_map_lookup_elem(MAP(sockets), &key.sk);
	}
	if (s && s->excluded)
		return;
	/* By arithmetic: each branch is another state for the verifier in all that follows. */
	nobody = (s ? s->kernels : 0) | !!(task_flags() & PF_KTHREAD);
	asm volatile("" : "+r"(nobody));
	key.tgid = (bpf_get_current_pid_tgid() >> 32) & (nobody - 1);
	talk = find_talk(out);
	find_peer(&key, sk, talk, out, family, protocol, sport, typed);
	call_ended(talk);
	slot = s ? s->slot : 0;
	if (slot) {
		at = slot - 1;
		part = part_at(at);
		place = bpf_map_lookup_elem(MAP(places), &at);
		if (!part || !place || part->socket != s->flow || !part->flow || place->key.sk != key.sk ||
		    place->key.tgid != key.tgid || place->key.port != key.port ||
		    !same_address(place->key.peer, key.peer) || is_retired(at))
			slot = 0;
	}
	if (!slot && s)
		slot = another_part(ctx, s, &key, out);
	account(slot, bytes, (out ? WENT_OUT : 0) | (nobody ? 0 : family == AF_PACKET ? VIA_PACKET : VIA_NOW));
}

enum moved_by { NOT_OURS, STREAM, DATAGRAM };

static __always_inline enum moved_by sort_of(const struct sock *sk, u16 family, const bool typed)
{
	if (family == AF_INET || family == AF_INET6)
		return FIELD(typed, sk, sk_protocol) == IPPROTO_TCP ? STREAM : DATAGRAM;
	return family == AF_PACKET || family == AF_VSOCK ? DATAGRAM : NOT_OURS;
}

/* A call that sends has ended, whichever it was. */
static __always_inline int sent(void *ctx, const struct sock *sk, const int ret, const bool typed)
{
	u16 family = FIELD(typed, sk, __sk_common.skc_family);
	enum moved_by sort = sort_of(sk, family, typed);

	if (sort == NOT_OURS)
		return 0;
	if (ret < 0) {
		if (sort == DATAGRAM)
			call_ended(find_talk(true));
		return 0;
	}
	if (sort == DATAGRAM)
		datagram_moved(ctx, sk, family, ret, true, typed);
	else if (ret)
		stream_moved(ctx, sk, ret, true, false, typed);
	return 0;
}

/* A call that receives has ended. What it took from a connection taken_out() hears of. */
static __always_inline int received(void *ctx, const struct sock *sk, const int ret, const int flags, const bool typed)
{
	u16 family = FIELD(typed, sk, __sk_common.skc_family);
	enum moved_by sort = sort_of(sk, family, typed);

	if (sort == NOT_OURS)
		return 0;
	if (ret < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE)) {
		if (sort == DATAGRAM)
			call_ended(find_talk(false));
		return 0;
	}
	if (sort == DATAGRAM)
		datagram_moved(ctx, sk, family, ret, false, typed);
	else if (ret && has_upper_layer(sk))
		stream_moved(ctx, sk, ret, false, false, typed);
	return 0;
}

/* The same for what has no connections of TCP. */
static __always_inline int message_sent(void *ctx, const struct sock *sk, const int ret, const bool typed)
{
	if (ret >= 0)
		datagram_moved(ctx, sk, FIELD(typed, sk, __sk_common.skc_family), ret, true, typed);
	return 0;
}

static __always_inline int message_received(void *ctx, const struct sock *sk, const int ret, const int flags,
					    const bool typed)
{
	if (ret >= 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE)))
		datagram_moved(ctx, sk, FIELD(typed, sk, __sk_common.skc_family), ret, false, typed);
	return 0;
}

/* Somebody has taken bytes out of a connection's receive queue. */
static __always_inline int taken_out(void *ctx, const struct sock *sk, const bool typed)
{
	if (!has_upper_layer(sk))
		stream_consumed(ctx, sk, typed);
	return 0;
}

#endif /* MAKES_PARTS */

#endif
