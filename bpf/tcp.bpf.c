// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * TCP: connect with its outcome, accept, listen, close, and the iterator that finds
 * the sockets which were open before the probes were.
 *
 * A state change runs on whatever task was interrupted. So an owner is only ever
 * taken where the owner itself runs: at CLOSE -> SYN_SENT and CLOSE -> LISTEN, and at
 * the return of accept(2); `sockets` carries it to the events that come by softirq.
 */
#define HAS_BUDGETS
#include "calls.bpf.h"
#include "turns.bpf.h"

LICENSE("Dual BSD/GPL");

/* A connect(2) begins: current is the caller, or its io_uring thread. */
static __always_inline void connect_begins(const struct sock *sk, u64 key, const bool typed)
{
	struct socket_state s = {};

	s.opened = bpf_ktime_get_boot_ns();
	s.flow = new_flow(s.opened);
	s.role = ROLE_CONNECT;
	s.sock_flags = SOCK_IN_CONNECT;
	s.dport = __builtin_bswap16(FIELD(typed, sk, __sk_common.skc_dport));
	own(&s, sk, true);
	remember(key, &s, KIND_CONNECT);
}

static __always_inline void listen_begins(void *ctx, const struct sock *sk, u64 key, const bool typed)
{
	struct tally *t = tally_of(KIND_LISTEN);
	struct socket_state s = {};
	struct socket_record r;

	s.opened = bpf_ktime_get_boot_ns();
	s.flow = new_flow(s.opened);
	s.role = ROLE_LISTEN;
	own(&s, sk, true);
	/* Without bind(2) the port is chosen only after this: sys_exit_listen reports then. */
	if (!FIELD(typed, sk, __sk_common.skc_num))
		s.sock_flags = SOCK_DEFERRED;
	remember(key, &s, KIND_LISTEN);
	if (s.sock_flags & SOCK_DEFERRED || !t)
		return;
	fill(&r, &s, KIND_LISTEN);
	read_addresses(&r, sk, typed);
	r.backlog = FIELD(typed, sk, sk_max_ack_backlog);
	r.state = TCP_CLOSE;
	ship(ctx, &r, s.excluded, t);
}

/* The peer has answered, in softirq. An active open gets its outcome; a passive one
 * waits for the accept that tells its owner. */
static __always_inline void established(void *ctx, const struct sock *sk, u64 key, int oldstate, const bool typed)
{
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	u64 now = bpf_ktime_get_boot_ns();

	/* An entry that its socket left behind (see `sockets`) is not about this one. */
	if (s && s->role == ROLE_CONNECT && !(s->sock_flags & (SOCK_ESTABLISHED | SOCK_REPORTED | SOCK_DEFERRED))) {
		s->established = now;
		s->sock_flags |= SOCK_ESTABLISHED | SOCK_REPORTED;
		report_at(ctx, now, s, sk, KIND_CONNECT, oldstate, 0, typed);
	} else if (oldstate == TCP_SYN_RECV) {
		struct socket_state fresh = {};

		fresh.opened = now;
		fresh.established = now;
		fresh.flow = new_flow(now);
		fresh.role = ROLE_ACCEPT;
		fresh.sock_flags = SOCK_ESTABLISHED;
		if (!bpf_map_update_elem(MAP(sockets), &key, &fresh, BPF_NOEXIST))
			return;
		/* It is in its listener's queue already: another CPU may have accepted it before this, or in
		 * this very moment, so `s` is not asked. With Fast Open that can be long before. */
		s = bpf_map_lookup_elem(MAP(sockets), &key);
		if (s && s->role == ROLE_ACCEPT && s->sock_flags & SOCK_EARLY) {
			s->established = now;
			s->sock_flags &= ~SOCK_EARLY;
			return;
		}
		remember(key, &fresh, KIND_ACCEPT);
	}
}

static __always_inline void closed(void *ctx, const struct sock *sk, u64 key, int oldstate, const bool typed)
{
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	u32 error;

	if (!s)
		return;
	error = FIELD(typed, sk, sk_err);
	if (oldstate == TCP_LISTEN) {
		bpf_map_delete_elem(MAP(sockets), &key);
	} else if (s->sock_flags & SOCK_ESTABLISHED) {
		/* In its listener's queue it has no file and is no orphan: reset there, accept(2) may
		 * still return it, or is about to, if it has a file by now. Else it was accepted in a way
		 * that isn't seen, or its listener went. */
		if (!s->tgid && s->role == ROLE_ACCEPT && (error || !FIELD(typed, sk, sk_socket)) &&
		    !(FIELD(typed, sk, __sk_common.skc_flags) >> SOCK_DEAD & 1)) {
			s->state_at_close = oldstate;
			s->error = error;
			*(volatile u8 *)&s->sock_flags |= SOCK_CLOSED;
			/* Accepted in this very moment it may not have seen the flag. */
			if (!*(volatile u32 *)&s->tgid)
				return;
		}
		report_last(ctx, s, sk, key, oldstate, error, typed);
	} else if (s->role == ROLE_CONNECT && !(s->sock_flags & SOCK_REPORTED)) {
		if (!error && s->sock_flags & SOCK_IN_CONNECT && s->tid == (u32)bpf_get_current_pid_tgid()) {
			/* EADDRNOTAVAIL and the like: only the syscall's result tells. */
			s->sock_flags |= SOCK_DEFERRED;
			return;
		}
		/* Given up by SO_SNDTIMEO, connect(2) has said EINPROGRESS; else the program closed it. */
		if (!error)
			error = s->sock_flags & SOCK_SEND_TIMEOUT ? EINPROGRESS : ECONNABORTED;
		report(ctx, s, sk, KIND_CONNECT, oldstate, error, typed);
		s->sock_flags |= SOCK_REPORTED;
		/* The caller is still inside connect(2): its exit must find that all is said. */
		if (!(s->sock_flags & SOCK_IN_CONNECT))
			bpf_map_delete_elem(MAP(sockets), &key);
	}
}

static __always_inline int changed(void *ctx, const struct sock *sk, const int oldstate, const int newstate,
				   const enum turn turn, const bool typed)
{
	u64 key = (u64)sk;

	if (KNOB(preemptible) && is_handed_on(key, newstate, turn))
		return 0;
	/* Half of all changes say nothing that the others don't. */
	if (newstate != TCP_SYN_SENT && newstate != TCP_ESTABLISHED && newstate != TCP_CLOSE && newstate != TCP_LISTEN)
		return 0;
	if (!is_tcp(sk, typed))
		return 0;
	if (!KNOB(preemptible) && is_seen(key, newstate, turn))
		return 0;
	if (newstate == TCP_SYN_SENT && oldstate == TCP_CLOSE)
		connect_begins(sk, key, typed);
	else if (newstate == TCP_LISTEN)
		listen_begins(ctx, sk, key, typed);
	else if (newstate == TCP_ESTABLISHED)
		established(ctx, sk, key, oldstate, typed);
	else if (newstate == TCP_CLOSE)
		closed(ctx, sk, key, oldstate, typed);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state_change, const struct sock *sk, const int oldstate, const int newstate)
{
	return changed(ctx, sk, oldstate, newstate, FIRST, TYPED);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_change_again, const struct sock *sk, const int oldstate, const int newstate)
{
	return changed(ctx, sk, oldstate, newstate, SECOND, TYPED);
}

/* A SYN that is sent again: the one sign of life of a connect that gets no answer. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(syn_again, const struct sock *sk)
{
	u64 key = (u64)sk;
	struct socket_state *s;

	if (FIELD(TYPED, sk, __sk_common.skc_state) != TCP_SYN_SENT)
		return 0;
	s = bpf_map_lookup_elem(MAP(sockets), &key);
	if (!s || s->role != ROLE_CONNECT || s->sock_flags & (SOCK_ATTEMPTED | SOCK_REPORTED) ||
	    bpf_ktime_get_boot_ns() - s->opened < ATTEMPT_AFTER_NS)
		return 0;
	s->sock_flags |= SOCK_ATTEMPTED;
	report(ctx, s, sk, KIND_ATTEMPT, TCP_SYN_SENT, 0, TYPED);
	return 0;
}

/* accept(2) has returned: the new descriptor leads to the very socket, in the
 * accepting process. */
static __always_inline int accepted_as(void *ctx, long fd)
{
	struct sock *sk = fd < 0 ? NULL : tcp_of(file_of(fd), true);

	if (sk && !take_mark(SEEN_ACCEPT, (u64)sk))
		accepted(ctx, sk, false);
	else if (fd == -EAGAIN)
		count_own((void *)bpf_get_current_task(), KIND_ACCEPT);
	return 0;
}

SEC("tp/syscalls/sys_exit_accept")
int exit_accept(struct trace_event_raw_sys_exit *ctx)
{
	return accepted_as(ctx, ctx->ret);
}

SEC("tp/syscalls/sys_exit_accept4")
int exit_accept4(struct trace_event_raw_sys_exit *ctx)
{
	return accepted_as(ctx, ctx->ret);
}

SEC("tp/syscalls/sys_exit_connect")
int exit_connect(struct trace_event_raw_sys_exit *ctx)
{
	return connect_call_returned(ctx, ctx->ret);
}

SEC("tp/syscalls/sys_exit_listen")
int exit_listen(struct trace_event_raw_sys_exit *ctx)
{
	return listen_call_returned(ctx, ctx->ret);
}

/* A socket that is open already, with its owner in `s`: a record of it, unless the probes
 * know it by now. What closes while this looks at it is left out. */
static __always_inline bool find_socket(struct socket_record *r, struct socket_state *s, struct sock *sk)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	u64 key = (u64)sk;
	struct socket_state *known;

	if (state == TCP_CLOSE || is_excluded(s->tgid, s->start))
		return false;
	s->flow = new_flow(bpf_ktime_get_boot_ns());
	s->sock_flags = SOCK_SNAPSHOT;
	s->consumed = consumed(sk, false);
	if (state == TCP_LISTEN) {
		s->role = ROLE_LISTEN;
	} else if (state == TCP_SYN_SENT) {
		s->role = ROLE_CONNECT;
	} else {
		s->role = ROLE_NONE;
		s->sock_flags |= SOCK_ESTABLISHED;
	}
	if (bpf_map_update_elem(MAP(sockets), &key, s, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(MAP(sockets), &key);
		if (known && known->role == ROLE_CONNECT &&
		    !(known->sock_flags & (SOCK_REPORTED | SOCK_ESTABLISHED | SOCK_ATTEMPTED))) {
			/* Still pending: what the trace's end has to say of it. */
			fill(r, known, KIND_ATTEMPT);
			read_addresses(r, sk, false);
			r->state = state;
			return true;
		}
		if (!known) {
			struct tally *t = tally_of(KIND_CLOSE);

			if (t)
				count(&t->map_full);
		}
		return false;
	}
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE) {
		bpf_map_delete_elem(MAP(sockets), &key);
		return false;
	}
	fill(r, s, KIND_SOCKET_FOUND);
	read_addresses(r, sk, false);
	if (state == TCP_LISTEN)
		r->backlog = BPF_CORE_READ(sk, sk_max_ack_backlog);
	else
		read_totals(r, sk, false);
	r->state = state;
	return true;
}

#ifndef TRACER_BCC
SEC("tp/sock/inet_sock_set_state")
int state_change_stand_in(struct trace_event_raw_inet_sock_set_state *ctx)
{
	return changed(ctx, ctx->skaddr, ctx->oldstate, ctx->newstate, SECOND, false);
}

/* A request of io_uring has ended, in a thread of the process whose ring it is, which has its descriptors. Without
 * descriptors (direct ones; file_slot) and for all but the last of a multishot accept (5.19+, without the
 * request) nothing leads to the socket: the owner is who moves its first byte. */
SEC("tp/io_uring/io_uring_complete")
int ring_accepted(struct trace_event_raw_io_uring_complete *ctx)
{
	const void *req;
	struct sock *sk;

	if (!bpf_core_field_exists(ctx->req) || !bpf_core_field_exists(((struct io_accept *)0)->file_slot))
		return 0;
	req = ctx->req;
	if (ctx->res < 0 || !req || BPF_CORE_READ((const struct io_kiocb *)req, opcode) != IORING_OP_ACCEPT ||
	    BPF_CORE_READ((const struct io_accept *)req, file_slot))
		return 0;
	sk = tcp_of(file_of(ctx->res), false);
	if (sk)
		accepted(ctx, sk, false);
	return 0;
}

/* The sockets that are open, in one pass over the descriptors of all processes and so over
 * all network namespaces. */
SEC("iter/task_file")
int find_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *leader, *task = ctx->task;
	struct file *file = ctx->file;
	struct socket_state s = {};
	struct socket_record r;
	struct sock *sk;
	u32 size = sizeof(r);

	if (!task || !file)
		return 0;
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) == ANON_INODE_FS_MAGIC)
		return 0;
	sk = tcp_of(file, false);
	if (!sk)
		return 0;
	leader = BPF_CORE_READ(task, group_leader);
	s.start = boot_start(leader);
	s.tgid = BPF_CORE_READ(task, tgid);
	s.tid = s.tgid;
	s.uid = BPF_CORE_READ(task, cred, uid.val);
	s.cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	bpf_core_read(&s.comm, sizeof(s.comm), &leader->comm);
	if (find_socket(&r, &s, sk)) {
		bpf_seq_write(ctx->meta->seq, &size, sizeof(size));
		bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	}
	return 0;
}

/* Other running tracers: who holds a map called like ours. The caller decides whom
 * to believe. */
SEC("iter/task_file")
int find_tracers(struct bpf_iter__task_file *ctx)
{
	static const char wanted_file[] = "bpf-map", wanted_map[] = "tracer_excluded";
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	char name[16] = {};
	struct header h;
	struct bpf_map *map;

	if (!task || !file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != ANON_INODE_FS_MAGIC)
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	for (u32 i = 0; i < sizeof(wanted_file); i++)
		if (name[i] != wanted_file[i])
			return 0;
	map = BPF_CORE_READ(file, private_data);
	bpf_core_read(name, sizeof(name), &map->name);
	for (u32 i = 0; i < sizeof(wanted_map); i++)
		if (name[i] != wanted_map[i])
			return 0;
	begin(&h, KIND_TRACER_FOUND, 0, BPF_CORE_READ(task, tgid), BPF_CORE_READ(task, cred, euid.val),
	      boot_start(BPF_CORE_READ(task, group_leader)));
	bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
	return 0;
}
#else
/* Run by BPF_PROG_TEST_RUN: a descriptor that the caller took from its owner, and who that
 * is. Returns 1 when there is a record in `answer`. */
struct held_socket {
	u64 fd;
	u64 tgid;
	u64 start;
	u64 uid;
	u64 cgroup;
	u64 comm[2];
};

int look_at_socket(const struct held_socket *ctx)
{
	struct socket_record *answer = the_answer();
	struct socket_state s = {};
	struct sock *sk;

	sk = tcp_of(file_of(ctx->fd), true);
	if (!sk || !answer)
		return 0;
	s.tgid = s.tid = ctx->tgid;
	s.start = ctx->start;
	s.uid = ctx->uid;
	s.cgroup = ctx->cgroup;
	((u64 *)s.comm)[0] = ctx->comm[0];
	((u64 *)s.comm)[1] = ctx->comm[1];
	return find_socket(answer, &s, sk);
}
#endif
