/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is known of a TCP socket, its record, and what becomes of it where a call returns:
 * for the probes of tcp.bpf.c and of returns.bpf.c alike.
 */
#ifndef SOCKET_BPF_H
#define SOCKET_BPF_H

#include "parts.bpf.h"

struct socket_state {
	u64 flow;
	u64 opened;
	u64 established;
	u64 start;		/* of the owner */
	u64 cgroup;
	u32 tgid;		/* of the owner; 0: none yet */
	u32 tid;
	u32 uid;
	u32 error;
	u8 role;
	u8 sock_flags;
	u8 state_at_close;
	u8 excluded;		/* the owner is a tracer; looked up once */
	u16 dport;		/* as asked for: a connect that fails for want of a port forgets it */
	u16 sport;		/* of a socket without connections */
	char comm[COMM_LEN];
	u64 consumed;		/* bytes of the stream that were read, as of the last look */
	u32 slot;		/* of the owner's part, or of the last that moved; + 1 */
	u16 protocol;		/* of a socket without connections */
	u8 parts;		/* of such a socket; 2: two or more, of a connection: others than its owner's */
	u8 kernels;		/* the kernel's own: no process is its owner, whichever is current */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	/* The sock's address. An entry ends with its connection. The few that can't (reset before
	 * accept(2) and never accepted, failed in io_uring) are overwritten by the next connection at
	 * that address: there are never more of them than there were sockets at once. */
	__type(key, u64);
	__type(value, struct socket_state);
} sockets SEC(".maps");

static __always_inline bool is_tcp(const struct sock *sk, const bool typed)
{
	u16 family = FIELD(typed, sk, __sk_common.skc_family);

	return FIELD(typed, sk, sk_protocol) == IPPROTO_TCP && (family == AF_INET || family == AF_INET6);
}

static __always_inline u64 new_flow(u64 now)
{
	/* No CPU makes two in one nanosecond; 2^54 ns are 208 days, then it starts over,
	 * and what is still open from before is not the same nanosecond and CPU. */
	return now << 10 | (bpf_get_smp_processor_id() & 1023);
}

/* The current task becomes the owner: only where it really is. */
static __always_inline void own_by_current(struct socket_state *s)
{
	struct task_struct *leader, *task = (void *)bpf_get_current_task();
	u64 ids = bpf_get_current_pid_tgid();

	s->tgid = ids >> 32;
	s->tid = ids;
	s->uid = bpf_get_current_uid_gid();
	s->cgroup = bpf_get_current_cgroup_id();
	if (s->tgid == s->tid) {
		s->start = boot_start(task);
		bpf_get_current_comm(s->comm, sizeof(s->comm));
	} else {
		leader = BPF_CORE_READ(task, group_leader);
		s->start = boot_start(leader);
		bpf_core_read(&s->comm, sizeof(s->comm), &leader->comm);
	}
	s->excluded = is_excluded(s->tgid, s->start);
}

/* No descriptor leads to this socket (yet). */
static __always_inline bool has_no_file(const struct sock *sk)
{
	return !BPF_CORE_READ(sk, sk_socket, file);
}

/* TLS in the kernel and the like: what was read is not what the queue held, and they read in softirqs. Of MPTCP the
 * connections beneath have one too. */
static __always_inline bool has_upper_layer(const struct sock *sk)
{
	return BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_ops);
}

/* The current task becomes the owner, unless the socket is one of the kernel's (NFS, SMB, tunnels), which it uses in its
 * threads and in calls of any process. Those of MPTCP's connections it has made for the process that is current. */
static __always_inline void own(struct socket_state *s, const struct sock *sk, const bool stream)
{
	const struct task_struct *task = (const void *)bpf_get_current_task();

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD || (has_no_file(sk) && !(stream && has_upper_layer(sk))))
		s->kernels = true;
	else
		own_by_current(s);
}

/* The beginning of sock_common in one read; the fields lie in it where CO-RE says (the
 * last one, skc_net, at byte 48 since 3.x; were it ever elsewhere, the verifier would say so). */
#define COMMON_BYTES 64
#define IN_COMMON(common, type, field) (*(type *)((common) + bpf_core_field_offset(struct sock_common, field)))

static __always_inline void read_addresses(struct socket_record *r, const struct sock *sk, const bool typed)
{
	const struct inet_sock *inet = (const void *)sk;
	u32 local, remote;

	if (typed) {
		r->family = sk->__sk_common.skc_family;
		/* Not directly: for each pointer that is loaded through an argument the verifier looks for
		 * names among all types of the kernel (6.3+, commit 57539b1c0ac2): a millisecond each time. */
		r->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		r->dport = __builtin_bswap16(sk->__sk_common.skc_dport);
		r->sport = sk->__sk_common.skc_num;
		local = sk->__sk_common.skc_rcv_saddr;
		remote = sk->__sk_common.skc_daddr;
	} else {
		char common[COMMON_BYTES] __attribute__((aligned(8)));
		const struct net *net;

		bpf_probe_read_kernel(common, sizeof(common), &sk->__sk_common);
		net = IN_COMMON(common, possible_net_t, skc_net).net;
		r->family = IN_COMMON(common, u16, skc_family);
		r->netns = BPF_CORE_READ(net, ns.inum);
		r->dport = __builtin_bswap16(IN_COMMON(common, u16, skc_dport));
		r->sport = IN_COMMON(common, u16, skc_num);
		local = IN_COMMON(common, u32, skc_rcv_saddr);
		remote = IN_COMMON(common, u32, skc_daddr);
	}
	/* skc_num is 0 at SYN_SENT and again at CLOSE, inet_sport is still right there. */
	if (!r->sport)
		r->sport = __builtin_bswap16(BPF_CORE_READ(inet, inet_sport));
	if (r->family == AF_INET6) {
		bpf_core_read(r->saddr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(r->daddr, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		r->saddr[10] = r->saddr[11] = r->daddr[10] = r->daddr[11] = 0xff;
		*(u32 *)(r->saddr + 12) = local;
		*(u32 *)(r->daddr + 12) = remote;
	}
}

static __always_inline void read_totals(struct socket_record *r, const struct sock *sk, const bool typed)
{
	const struct tcp_sock *tp = typed ? bpf_skc_to_tcp_sock((void *)sk) : (const void *)sk;

	if (!tp)
		return;
	/* bytes_sent counts payload, retransmissions included (4.19, commit ba113c3aa79a). */
	r->sent = FIELD(typed, tp, bytes_sent) - FIELD(typed, tp, bytes_retrans);
	/* bytes_received follows rcv_nxt, so it counts a FIN (tcp_rcv_nxt_update() in net/ipv4/tcp_input.c). */
	r->received = FIELD(typed, tp, bytes_received);
	if (r->received && FIELD(typed, sk, __sk_common.skc_flags) >> SOCK_DONE & 1)
		r->received--;
	r->retransmits = FIELD(typed, tp, total_retrans);
	r->rtt_us = FIELD(typed, tp, srtt_us) >> 3;
}

#ifndef TRACER_BCC
static __always_inline struct part *part_of_owner(const struct socket_state *s)
{
	struct part *part = s->slot ? part_at(s->slot - 1) : NULL;

	return part && part->flow == s->flow && part->tgid == s->tgid ? part : NULL;
}

static __always_inline void read_moved(struct socket_record *r, const struct part *part)
{
	r->moved_out = part->moved_out;
	r->moved_in = part->moved_in;
	r->calls_out = part->calls_out;
	r->calls_in = part->calls_in;
	r->via = part->via;
}

/* The last totals of a part that has no place any more, and nobody hears them. */
static __always_inline void not_told(const struct socket_record *r, const bool filtered)
{
	u64 bytes = r->moved_out + r->moved_in;
	u32 cpu = bpf_get_smp_processor_id();
	struct moved *all;

	if (!bytes || r->slot)
		return;
	all = bpf_map_lookup_elem(MAP(moved), &cpu);
	if (all)
		__sync_fetch_and_add(filtered ? &all->filtered : &all->lost, bytes);
}

/* Connections that are closed though a process still holds their socket: it may read on. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct socket_state);
} tails SEC(".maps");

/* What the owner of a connection has moved, at its end. The part ends with it, unless the process
 * still holds the socket: then when that goes (KIND_TAIL). */
static __always_inline struct part *end_moved(struct socket_record *r, const struct socket_state *s,
					      const struct sock *sk, u64 key, const bool typed)
{
	struct part *part = part_of_owner(s);

	if (part)
		read_moved(r, part);
	if (FIELD(typed, sk, __sk_common.skc_flags) >> SOCK_DEAD & 1)
		return part;
	if (part)
		r->slot = s->slot;
	bpf_map_update_elem(MAP(tails), &key, s, BPF_ANY);
	return NULL;
}
#else
#define end_moved(r, s, sk, key, typed) ((struct part *)NULL)
#define not_told(r, filtered)
#endif

/* Bytes of the stream that were taken out of the receive queue so far; peeking takes none. A FIN
 * counts as one in all three numbers, once it has come or was taken. */
static __always_inline u64 consumed(const struct sock *sk, const bool typed)
{
	const struct tcp_sock *tp = typed ? bpf_skc_to_tcp_sock((void *)sk) : (const void *)sk;
	u32 next, copied;

	if (!tp)
		return 0;
	next = FIELD(typed, tp, rcv_nxt);
	copied = FIELD(typed, tp, copied_seq);
	return FIELD(typed, tp, bytes_received) - (u32)(next - copied) -
	       (next == copied && FIELD(typed, sk, __sk_common.skc_flags) >> SOCK_DONE & 1);
}

static __always_inline void fill_at(struct socket_record *r, u64 now, const struct socket_state *s, u32 kind)
{
	__builtin_memset(r, 0, sizeof(*r));
	begin_at(&r->h, now, kind, RING_BULK, s->tgid, s->tid, s->start);
	r->h.flags = s->kernels * FLAG_KERNEL;
	r->flow = s->flow;
	r->opened = s->opened;
	r->established = s->established;
	r->cgroup = s->cgroup;
	r->uid = s->uid;
	r->role = s->role;
	r->sock_flags = s->sock_flags;
	r->socket = s->flow;
	r->protocol = IPPROTO_TCP;
	r->type = SOCK_STREAM;
	__builtin_memcpy(r->comm, s->comm, COMM_LEN);
}

static __always_inline void fill(struct socket_record *r, const struct socket_state *s, u32 kind)
{
	fill_at(r, bpf_ktime_get_boot_ns(), s, kind);
}

static __always_inline bool address_wanted(const u8 *address)
{
	struct cidr_key key = { .bits = 128 };

	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(MAP(filter_cidrs), &key);
}

static __always_inline bool wanted(const struct socket_record *r)
{
	u32 port;

	if (!pid_wanted(r->h.tgid))
		return false;
	if (!(KNOB(kinds) & 1U << r->h.kind))
		return false;
	if (KNOB(filters) & FILTER_UID && !bpf_map_lookup_elem(MAP(filter_uids), &r->uid))
		return false;
	if (KNOB(filters) & FILTER_NETNS && !bpf_map_lookup_elem(MAP(filter_netns), &r->netns))
		return false;
	if (KNOB(filters) & FILTER_PORT) {
		port = r->sport;
		if (!bpf_map_lookup_elem(MAP(filter_ports), &port)) {
			port = r->dport;
			if (!bpf_map_lookup_elem(MAP(filter_ports), &port))
				return false;
		}
	}
	if (KNOB(filters) & FILTER_CIDR && !address_wanted(r->saddr) && !address_wanted(r->daddr))
		return false;
	return true;
}

/* Beyond the budget of whose it is. By name: only where its owner is current, which it often is not, could be told what
 * that runs. */
static __always_inline bool collapsed(const struct socket_record *r, struct tally *t)
{
	struct first first = { .cgroup = r->cgroup, .start = r->h.start, .tgid = r->h.tgid, .comm = r->comm };

	if (!over_budget(r->cgroup, r->uid, RING_BULK, r->h.time, RING_BYTES(sizeof(*r))))
		return false;
	collapse(t, r->uid, r->h.kind, r->h.time, name_hash(r->comm), &first);
	return true;
}

static __always_inline void ship(void *ctx, struct socket_record *r, bool excluded, struct tally *t)
{
	count(&t->attempts);
	if (excluded || !wanted(r)) {
		count(&t->filtered);
		not_told(r, true);
		return;
	}
	if (collapsed(r, t)) {
		not_told(r, true);
		return;
	}
	if (emit(ctx, bulk, r, sizeof(*r), t))
		not_told(r, false);
}

static __always_inline void report_at(void *ctx, u64 now, struct socket_state *s, const struct sock *sk, u32 kind,
				      u8 state, u32 error, const bool typed)
{
	struct tally *t = tally_of(kind);
	struct socket_record r;

	if (!t)
		return;
	fill_at(&r, now, s, kind);
	read_addresses(&r, sk, typed);
	if (!r.dport)
		r.dport = s->dport;
	if (kind != KIND_ACCEPT)
		read_totals(&r, sk, typed);
	r.state = state;
	r.error = error;
	ship(ctx, &r, s->excluded, t);
}

static __always_inline void report(void *ctx, struct socket_state *s, const struct sock *sk, u32 kind, u8 state,
				   u32 error, const bool typed)
{
	report_at(ctx, bpf_ktime_get_boot_ns(), s, sk, kind, state, error, typed);
}

static __always_inline void remember(u64 key, struct socket_state *s, u32 kind)
{
	if (bpf_map_update_elem(MAP(sockets), &key, s, BPF_ANY)) {
		struct tally *t = tally_of(kind);

		if (t)
			count(&t->map_full);
	}
}

/* The last word on a connection. Its close in softirq and its accept may come to that at
 * once, on two CPUs: who removes the entry says it, and nobody else. */
static __always_inline void report_last(void *ctx, const struct socket_state *s, const struct sock *sk, u64 key,
					u8 state, u32 error, const bool typed)
{
	struct tally *t = tally_of(KIND_CLOSE);
	struct socket_record r;
	bool excluded = s->excluded;
	struct part *ended;

	if (!t)
		return;
	fill(&r, s, KIND_CLOSE);
	read_addresses(&r, sk, typed);
	if (!r.dport)
		r.dport = s->dport;
	read_totals(&r, sk, typed);
	ended = end_moved(&r, s, sk, key, typed);
	r.state = state;
	r.error = error;
	if (bpf_map_delete_elem(MAP(sockets), &key))
		return;
	if (ended)
		ended->flow = 0;
	ship(ctx, &r, excluded, t);
}

/* A process has accepted this very socket, and is current. */
static __always_inline void accepted(void *ctx, const struct sock *sk, const bool typed)
{
	struct socket_state *known, s = {};
	u64 key = (u64)sk, now = bpf_ktime_get_boot_ns();

	known = bpf_map_lookup_elem(MAP(sockets), &key);
	if (known) {
		s = *known;
	} else {
		/* Established before the probes were, or the map was full then; or not established yet: it is in
		 * its listener's queue before that, with Fast Open since its SYN. */
		s.opened = now;
		s.flow = new_flow(now);
		s.role = ROLE_ACCEPT;
		s.sock_flags = SOCK_ESTABLISHED;
		if (FIELD(typed, sk, __sk_common.skc_state) == TCP_SYN_RECV)
			s.sock_flags |= SOCK_EARLY;
		s.consumed = consumed(sk, typed);
	}
	own_by_current(&s);
	if (!known) {
		remember(key, &s, KIND_ACCEPT);
		report_at(ctx, now, &s, sk, KIND_ACCEPT, TCP_SYN_RECV, 0, typed);
		return;
	}
	known->start = s.start;
	known->cgroup = s.cgroup;
	known->tid = s.tid;
	known->uid = s.uid;
	known->excluded = s.excluded;
	__builtin_memcpy(known->comm, s.comm, COMM_LEN);
	/* The last: from here on its close, on any CPU, knows whose it is. */
	*(volatile u32 *)&known->tgid = s.tgid;
	report_at(ctx, now, &s, sk, KIND_ACCEPT, TCP_SYN_RECV, 0, typed);
	if (*(volatile u8 *)&known->sock_flags & SOCK_CLOSED) {
		s.sock_flags |= SOCK_CLOSED;
		report_last(ctx, &s, sk, key, known->state_at_close, known->error, typed);
	}
}

/* `in_user` is a constant: whose memory the address is in. */
static __always_inline void read_peer(void *to, u32 size, const void *from, const bool in_user)
{
	if (in_user)
		bpf_probe_read_user(to, size, from);
	else
		bpf_probe_read_kernel(to, size, from);
}

/* A connect that failed before any state changed; the peer as the caller asked. */
static __always_inline void refused_at_once(void *ctx, const struct sock *sk, const void *address, const bool in_user,
					    u32 error)
{
	struct tally *t = tally_of(KIND_CONNECT);
	struct socket_state s = {};
	struct socket_record r;
	u16 family = 0, port = 0;

	if (!t)
		return;
	s.opened = bpf_ktime_get_boot_ns();
	s.flow = new_flow(s.opened);
	s.role = ROLE_CONNECT;
	own(&s, sk, true);
	fill(&r, &s, KIND_CONNECT);
	read_addresses(&r, sk, false);
	read_peer(&family, sizeof(family), address, in_user);
	read_peer(&port, sizeof(port), address + 2, in_user);
	r.dport = __builtin_bswap16(port);
	if (family == AF_INET6) {
		read_peer(r.daddr, 16, address + 8, in_user);
	} else if (family == AF_INET) {
		__builtin_memset(r.daddr, 0, 16);
		r.daddr[10] = r.daddr[11] = 0xff;
		read_peer(r.daddr + 12, 4, address + 4, in_user);
	} else {
		r.dport = 0;
	}
	r.state = TCP_CLOSE;
	r.error = error;
	ship(ctx, &r, s.excluded, t);
}

/* connect(2) returns, or io_uring's: `gave_up` is a blocking one that waited in vain. What
 * succeeded was told when it became ESTABLISHED. */
static __always_inline void connect_returned(void *ctx, const struct sock *sk, long ret, const void *address,
					     const bool in_user, bool gave_up, const bool typed)
{
	u64 key = (u64)sk;
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	/* A second connect on one socket asks for its state, it opens nothing. What became of
	 * the first was told; these errors come of nothing else. */
	bool again = ret >= 0 || ret == -EISCONN || ret == -EALREADY || ret == -EINPROGRESS || ret == -ECONNREFUSED ||
		     ret == -ECONNABORTED || ret == -ECONNRESET || ret == -ETIMEDOUT;

	/* Neither an accepted nor a listening socket gets another error: the entry is one that could
	 * not end, of a socket that had this address before. */
	if (s && s->role != ROLE_CONNECT && !again) {
		bpf_map_delete_elem(MAP(sockets), &key);
		s = NULL;
	}
	if (!s) {
		if (again)
			return;
		refused_at_once(ctx, sk, address, in_user, -ret);
		return;
	}
	if (s->role != ROLE_CONNECT)
		return;
	if (s->sock_flags & SOCK_DEFERRED) {
		report(ctx, s, sk, KIND_CONNECT, TCP_SYN_SENT, ret < 0 ? -ret : ECONNABORTED, typed);
		bpf_map_delete_elem(MAP(sockets), &key);
		return;
	}
	if (s->sock_flags & SOCK_REPORTED && !(s->sock_flags & SOCK_ESTABLISHED)) {
		bpf_map_delete_elem(MAP(sockets), &key);
		return;
	}
	s->sock_flags &= ~SOCK_IN_CONNECT;
	if (gave_up)
		s->sock_flags |= SOCK_SEND_TIMEOUT;
}

/* listen(2) has succeeded: now the port is known that was chosen for it. */
static __always_inline void listen_returned(void *ctx, const struct sock *sk, const bool typed)
{
	struct tally *t = tally_of(KIND_LISTEN);
	u64 key = (u64)sk;
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	struct socket_record r;

	if (!s || !t || s->role != ROLE_LISTEN || !(s->sock_flags & SOCK_DEFERRED))
		return;
	s->sock_flags &= ~SOCK_DEFERRED;
	fill(&r, s, KIND_LISTEN);
	read_addresses(&r, sk, typed);
	r.backlog = FIELD(typed, sk, sk_max_ack_backlog);
	r.state = TCP_CLOSE;
	ship(ctx, &r, s->excluded, t);
}

#endif
