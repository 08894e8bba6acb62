/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which of two programs at one tracepoint sees to a change of a socket's state, where the
 * kernel skips now the one and now the other.
 */
#ifndef TURNS_BPF_H
#define TURNS_BPF_H

#include "socket.bpf.h"

/* Whether this change has been seen to, by a program or its stand-in (see is_seen_to()): by what it
 * left in `sockets`, for a softirq may come between the two. A close seen to twice does nothing. */
static __always_inline bool is_known(u64 key, const int newstate)
{
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	u32 tid = bpf_get_current_pid_tgid();

	if (!s)
		return false;
	if (newstate == TCP_SYN_SENT)
		return s->role == ROLE_CONNECT && s->tid == tid && !(s->sock_flags & (SOCK_REPORTED | SOCK_ESTABLISHED));
	if (newstate == TCP_LISTEN)
		return s->role == ROLE_LISTEN && s->tid == tid;
	if (newstate == TCP_ESTABLISHED)
		return s->sock_flags & SOCK_ESTABLISHED && !(s->sock_flags & SOCK_CLOSED) &&
		       (s->role == ROLE_CONNECT || !s->tgid);
	return false;
}

/* The change that this CPU saw last: the socket's address, 0 when its stand-in has looked, and the new state. */
struct change {
	u64 key;
	u64 state;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct change);
} last_change SEC(".maps");

/* Where tracepoints can be preempted: the changes that the first program has seen to, for the second
 * to take away, and how many were put there and taken. What was not taken is as often as the second
 * was skipped and the first not; so what both were skipped for can be told. For that all changes come
 * here, also those that say nothing: the kernel counts what it skips of any. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct change);
	__type(value, u8);
} handed_on SEC(".maps");

struct hands {
	u64 put;
	u64 taken;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct hands);
} hands SEC(".maps");

/* Of a socket's state changes the kernel skips those that a softirq brings while the program runs in
 * the process it interrupts (since 6.2): those are left to a second program at the same tracepoint,
 * which comes right behind. Nothing interrupts a softirq that changes a state itself, so the two are
 * never skipped both. Where tracepoints can be preempted the stand-in is another. */
enum turn { FIRST, SECOND };

static __always_inline bool is_handed_on(u64 key, const int newstate, const enum turn turn)
{
	struct change change = { .key = key, .state = newstate };
	struct hands *counts;
	u32 zero = 0;
	u8 yes = 1;

	if (turn == SECOND && bpf_map_delete_elem(MAP(handed_on), &change))
		return is_known(key, newstate);
	if (turn == FIRST && is_known(key, newstate))
		return true;
	if (turn == FIRST && bpf_map_update_elem(MAP(handed_on), &change, &yes, BPF_ANY))
		return false;
	counts = bpf_map_lookup_elem(MAP(hands), &zero);
	if (counts)
		count(turn == FIRST ? &counts->put : &counts->taken);
	return turn == SECOND;
}

static __always_inline bool is_seen(u64 key, const int newstate, const enum turn turn)
{
	struct change *last;
	u32 zero = 0;

	last = bpf_map_lookup_elem(MAP(last_change), &zero);
	if (!last)
		return false;
	if (turn == FIRST) {
		last->key = key;
		last->state = newstate;
		return false;
	}
	if (last->key == key && last->state == (u64)newstate) {
		last->key = 0;
		return true;
	}
	return is_known(key, newstate);
}

#endif
