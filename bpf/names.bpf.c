// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The first bytes of flows, from which user space reads the names that they go to: what begins like TLS
 * or HTTP, the Initials of QUIC, and the messages of DNS. Of all else not a byte leaves the kernel.
 *
 * At the root of the cgroup hierarchy, where each packet of a socket comes by, out and in. Nearly all
 * packets are of connections that are past their beginning: their socket's own counters tell so, and
 * nothing of them is looked at.
 */
#include "socket.bpf.h"

LICENSE("Dual BSD/GPL");

#define PASS 1

#define PORT_DNS 53
#define PORT_MDNS 5353
#define PORT_LLMNR 5355
#define QUIC_1 0x00000001U
#define QUIC_2 0x6b3343cfU		/* RFC 9369 */
#define INITIAL_LEAST 1200		/* bytes of a datagram with an Initial (RFC 9000, 14.1) */
#define INITIALS_QUIET_NS 10000000000ULL
#define WINDOW_NS 1000000000ULL
#define MESSAGES_MOST 1000		/* DNS messages in a window, on one CPU */
#define BYTES_MOST (4U << 20)		/* likewise, of everything */

/* Of a packet, as far as it was looked at. Ports in host order. */
struct packet {
	u32 header;			/* bytes in front of what it carries */
	u32 length;			/* of that */
	u32 seq;
	u16 local;
	u16 remote;
	u8 family;
	u8 protocol;
};

/* A stream that began like one with a name in it, and goes on: (sock's address | out) -> */
struct beginning {
	u64 cookie;
	u32 next;
	u32 wanted;
	u32 segments;
	u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct beginning);
} beginnings SEC(".maps");

/* A server has one socket for all its peers. */
struct initial_key {
	u64 sk;
	u16 local;
	u16 remote;
	u32 reserved;
	u8 peer[16];
};

struct initials {
	u64 last;
	u32 count;
	u32 out;			/* the first one's direction: that of the client */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct initial_key);
	__type(value, struct initials);
} initials SEC(".maps");

/* So that neither a busy resolver nor anybody else can fill the ring. */
struct budget {
	u64 window;
	u32 messages;
	u32 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct budget);
} budgets SEC(".maps");

static __always_inline bool is_dns(const struct packet *p)
{
	return p->remote == PORT_DNS || p->local == PORT_DNS;
}

/* Those of mDNS and LLMNR differ in one bit. */
static __always_inline bool is_port_of_messages(u16 port)
{
	return port == PORT_DNS || (port & ~(PORT_MDNS ^ PORT_LLMNR)) == PORT_MDNS;
}

static __always_inline bool is_dns_datagram(const struct packet *p)
{
	return is_port_of_messages(p->remote) || is_port_of_messages(p->local);
}

/* What the first bytes of a packet say; extension headers of IPv6 are not followed. The headers are
 * in one piece: of what leaves they were just written, of what comes the protocol has seen to it. */
static __always_inline bool parse(const struct __sk_buff *skb, struct packet *p, bool out)
{
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *above;
	u16 from, to;
	u32 at;

	if (data + 20 > end)
		return false;
	if (data[0] >> 4 == 4) {
		p->family = AF_INET;
		p->protocol = data[9];
		at = (data[0] & 15) * 4;
	} else {
		p->family = AF_INET6;
		p->protocol = data[6];
		at = 40;
	}
	above = data + at;
	if (above + 8 > end)
		return false;
	from = (u16)above[0] << 8 | above[1];
	to = (u16)above[2] << 8 | above[3];
	p->local = out ? from : to;
	p->remote = out ? to : from;
	if (p->protocol == IPPROTO_TCP) {
		if (above + 20 > end)
			return false;
		p->seq = (u32)above[4] << 24 | (u32)above[5] << 16 | (u32)above[6] << 8 | above[7];
		at += (above[12] >> 4) * 4;
	} else if (p->protocol == IPPROTO_UDP) {
		at += 8;
	} else {
		return false;
	}
	if (skb->len <= at)
		return false;
	p->header = at;
	p->length = skb->len - at;
	return true;
}

/* Where nothing is left, what is not told is counted. */
static __always_inline bool affordable(struct tally *t, u32 bytes, u64 now, const bool message)
{
	u32 zero = 0;
	struct budget *budget = bpf_map_lookup_elem(MAP(budgets), &zero);

	if (!budget)
		return false;
	if (now - budget->window > WINDOW_NS) {
		budget->window = now;
		budget->messages = budget->bytes = 0;
	}
	if (budget->bytes + bytes > BYTES_MOST || (message && budget->messages >= MESSAGES_MOST)) {
		count(&t->map_full);
		return false;
	}
	budget->bytes += bytes;
	if (message)
		budget->messages++;
	return true;
}

/* The current task, by no other helper: before 6.10 programs of this type have none for its ids. Gives whether that is
 * a tracer. */
static __always_inline bool own_as_sender(struct payload_record *r)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	r->h.tgid = BPF_CORE_READ(task, tgid);
	r->h.tid = BPF_CORE_READ(task, pid);
	r->h.start = boot_start(leader);
	r->uid = BPF_CORE_READ(task, cred, uid.val);
	r->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	bpf_core_read(&r->comm, sizeof(r->comm), &leader->comm);
	return is_excluded(r->h.tgid, r->h.start);
}

/* Whose it is, and whether that is a tracer. A datagram leaves in the context of its sender: udp_send_skb() comes to
 * ip_finish_output() or ip6_finish_output(), where these programs are, before anything is queued. (What a user-space
 * firewall had in its hands, NFQUEUE, leaves in the firewall's.) All else comes and goes by softirq, and
 * only the socket's entry tells. */
static __always_inline bool find_owner(struct payload_record *r, u64 key, const struct packet *p, const bool out)
{
	struct socket_state *known = bpf_map_lookup_elem(MAP(sockets), &key);
	bool excluded = false;

	if (known && p->protocol != IPPROTO_TCP &&
	    (known->role < ROLE_SENT || known->sport != p->local || known->protocol != IPPROTO_UDP))
		known = NULL;	/* of a socket that had this address before */
	if (known) {
		r->h.tgid = known->tgid;
		r->h.tid = known->tid;
		r->h.start = known->start;
		r->flow = known->flow;
		r->cgroup = known->cgroup;
		r->uid = known->uid;
		__builtin_memcpy(r->comm, known->comm, COMM_LEN);
		excluded = known->excluded;
	}
	if (out && p->protocol != IPPROTO_TCP)
		excluded = own_as_sender(r);
	return excluded;
}

static __always_inline void read_ends(struct payload_record *r, struct __sk_buff *skb, const struct packet *p,
				      const bool out)
{
	u8 *source = out ? r->saddr : r->daddr, *target = out ? r->daddr : r->saddr;

	if (p->family == AF_INET) {
		r->saddr[10] = r->saddr[11] = r->daddr[10] = r->daddr[11] = 0xff;
		bpf_skb_load_bytes(skb, 12, source + 12, 4);
		bpf_skb_load_bytes(skb, 16, target + 12, 4);
	} else {
		bpf_skb_load_bytes(skb, 8, source, 16);
		bpf_skb_load_bytes(skb, 24, target, 16);
	}
}

/* As for a socket's record. What has no owner yet can't be told by its process: user space does, once the
 * connection is accepted. */
static __always_inline bool payload_wanted(const struct payload_record *r)
{
	u32 port;

	if (!(KNOB(kinds) & 1U << KIND_PAYLOAD))
		return false;
	if (r->h.tgid) {
		if (!pid_wanted(r->h.tgid))
			return false;
		if (KNOB(filters) & FILTER_UID && !bpf_map_lookup_elem(MAP(filter_uids), &r->uid))
			return false;
	}
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

/* As tell() has put it together: the verifier of 5.10 lets such a function take nothing in memory. */
FUNCTION int tell_packed(struct __sk_buff *skb, u64 lengths, u64 ends, u32 offset, u32 how)
{
	struct packet packet = {
		.header = (u32)lengths,
		.length = lengths >> 32,
		.local = (u16)ends,
		.remote = (u16)(ends >> 16),
		.family = (u8)(ends >> 32),
		.protocol = (u8)(ends >> 40),
	};
	const struct packet *p = &packet;
	u32 segment = how >> 1;
	bool out = how & 1;
	struct bpf_sock *sk = skb->sk;
	struct tally *t = tally_of(KIND_PAYLOAD);
	struct payload_record r = {};
	u64 now = bpf_ktime_get_boot_ns(), key;
	u32 bytes = p->length;
	bool excluded = false;

	if (!sk || !t || offset >= FIRST_BYTES)
		return 0;
	if (bytes > FIRST_BYTES - offset)
		bytes = FIRST_BYTES - offset;
	if (!affordable(t, bytes, now, is_dns_datagram(p)))
		return 0;
	key = address_of(sk);
	begin_at(&r.h, now, KIND_PAYLOAD, RING_BULK, 0, 0, 0);
	/* A connection that is not made yet is its listener's business. */
	if (sk->state != TCP_LISTEN)
		excluded = find_owner(&r, key, p, out);
	r.cookie = bpf_get_socket_cookie(skb);
	r.netns = BPF_CORE_READ((const struct sock *)key, __sk_common.skc_net.net, ns.inum);
	r.offset = offset;
	r.length = p->length;
	r.sport = p->local;
	r.dport = p->remote;
	r.family = p->family;
	r.protocol = p->protocol;
	r.direction = out ? DIRECTION_OUT : DIRECTION_IN;
	r.segment = segment;
	r.header_len = p->header;
	r.data_len = bytes;
	read_ends(&r, skb, p, out);
	count(&t->attempts);
	if (excluded || !payload_wanted(&r)) {
		count(&t->filtered);
		return 0;
	}
	if (bytes < p->length)
		count(&t->truncated);
	emit_with_packet(skb, bulk, &r, sizeof(r), p->header + bytes, t);
	return 0;
}

static __always_inline void tell(struct __sk_buff *skb, const struct packet *p, u32 offset, u32 segment, bool out)
{
	u64 lengths = (u64)p->length << 32 | p->header;
	u64 ends = (u64)p->protocol << 40 | (u64)p->family << 32 | (u32)p->remote << 16 | p->local;

	tell_packed(skb, lengths, ends, offset, segment << 1 | out);
}

/* The bytes as they lie in memory, as a number of a little-endian machine. */
#define FOUR(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

static __always_inline bool begins_http(u32 word)
{
	return word == FOUR('G', 'E', 'T', ' ') || word == FOUR('P', 'O', 'S', 'T') || word == FOUR('H', 'E', 'A', 'D') ||
	       word == FOUR('P', 'U', 'T', ' ') || word == FOUR('D', 'E', 'L', 'E') || word == FOUR('O', 'P', 'T', 'I') ||
	       word == FOUR('P', 'A', 'T', 'C') || word == FOUR('C', 'O', 'N', 'N') || word == FOUR('T', 'R', 'A', 'C') ||
	       word == FOUR('P', 'R', 'I', ' ');
}

static __always_inline bool may_begin_http(u8 letter)
{
	return letter == 'G' || letter == 'P' || letter == 'H' || letter == 'D' || letter == 'O' || letter == 'C' ||
	       letter == 'T';
}

/* How many bytes of a stream are worth having, by the first ones of this packet; 0: none. */
FUNCTION u32 worth(struct __sk_buff *skb, u32 header, u32 length)
{
	u8 first[8] = {};
	u32 have, last = 0;
	long error;

	/* By sizes that are constants: the verifier of 5.10 does not see that what there is is not nothing. */
	if (length >= 8) {
		have = 8;
		error = bpf_skb_load_bytes(skb, header, first, 8);
	} else if (length >= 6) {
		have = 6;
		error = bpf_skb_load_bytes(skb, header, first, 6);
	} else if (length >= 4) {
		have = 4;
		error = bpf_skb_load_bytes(skb, header, first, 4);
	} else {
		have = 1;
		error = bpf_skb_load_bytes(skb, header, first, 1);
	}
	if (error)
		return 0;
	if (first[0] == 0x16) {	/* handshake, of any version, and in it a ClientHello */
		u32 record = (u32)first[3] << 8 | first[4];

		if ((have > 1 && first[1] != 3) || (have > 5 && first[5] != 1))
			return 0;
		if (have < 8 || ((u32)first[6] << 8 | first[7]) > record >> 8)	/* it is in several records */
			return FIRST_BYTES;
		record += 5;
		return record < FIRST_BYTES ? record : FIRST_BYTES;
	}
	if (have < 4)
		return may_begin_http(first[0]) ? FIRST_BYTES : 0;
	if (!begins_http(*(u32 *)first))
		return 0;
	/* A request without a body ends with its head. */
	if (!bpf_skb_load_bytes(skb, header + length - 4, &last, 4) && last == FOUR('\r', '\n', '\r', '\n'))
		return 1;
	return FIRST_BYTES;
}

static __always_inline void look_at_stream(struct __sk_buff *skb, struct packet *p, struct bpf_sock *sk, u32 offset,
					   const bool out)
{
	struct beginning *known, fresh = {};
	u64 key = address_of(sk) | out;
	u32 segment, wanted, again;

	if (!offset) {
		wanted = is_dns(p) ? FIRST_BYTES : worth(skb, p->header, p->length);
		if (!wanted)
			return;
		tell(skb, p, 0, 0, out);
		if (wanted <= p->length || sk->state == TCP_LISTEN)
			return;
		fresh.cookie = bpf_get_socket_cookie(skb);
		fresh.next = p->length;
		fresh.wanted = wanted;
		fresh.segments = 1;
		if (bpf_map_update_elem(MAP(beginnings), &key, &fresh, BPF_ANY)) {
			struct tally *t = tally_of(KIND_PAYLOAD);

			if (t)
				count(&t->map_full);
		}
		return;
	}
	known = bpf_map_lookup_elem(MAP(beginnings), &key);
	if (!known || known->cookie != bpf_get_socket_cookie(skb) || offset > known->next ||
	    offset + p->length <= known->next)
		return;
	/* What was sent again with more behind it: that alone. */
	again = known->next - offset;
	offset += again;
	p->header += again;
	p->length -= again;
	segment = known->segments++;
	known->next = offset + p->length;
	wanted = known->wanted;
	tell(skb, p, offset, segment, out);
	if (segment + 1 >= FIRST_SEGMENTS || offset + p->length >= wanted)
		bpf_map_delete_elem(MAP(beginnings), &key);
}

/* What carries data at the beginning of its stream, in order or not, for the first time. `past` are the bytes
 * that the socket has counted, `next` is the number of the one that comes next. */
static __noinline int look_at_segment(struct __sk_buff *skb, u64 past, u32 next, bool out)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	u32 offset = 0;

	if (!sk || !parse(skb, &p, out))
		return 0;
	if (out) {
		if ((s32)(p.seq - next) < 0)
			return 0;
		offset = past - p.length;
	} else if (sk->state != TCP_LISTEN) {
		if ((s32)(p.seq + p.length - next) <= 0)
			return 0;
		offset = p.seq - (next - (u32)past);
	}
	look_at_stream(skb, &p, sk, offset, out);
	return 0;
}

/* The number of an Initial in its flow, -1 if it is not worth telling. A function of its own for its stack, which is no
 * more there when the Initial is told. */
static __noinline int count_initial(struct __sk_buff *skb, const struct packet *p, bool out)
{
	struct initial_key key = { .local = p->local, .remote = p->remote };
	struct initials *known, fresh = { .last = bpf_ktime_get_boot_ns(), .count = 1, .out = out };
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return -1;
	key.sk = address_of(sk);
	if (p->family == AF_INET)
		bpf_skb_load_bytes(skb, out ? 16 : 12, key.peer, 4);
	else
		bpf_skb_load_bytes(skb, out ? 24 : 8, key.peer, 16);
	known = bpf_map_lookup_elem(MAP(initials), &key);
	if (known && fresh.last - known->last < INITIALS_QUIET_NS) {
		known->last = fresh.last;
		if (known->out != out || known->count >= FIRST_INITIALS)
			return -1;
		return known->count++;
	}
	if (bpf_map_update_elem(MAP(initials), &key, &fresh, BPF_ANY)) {
		struct tally *t = tally_of(KIND_PAYLOAD);

		if (t)
			count(&t->map_full);
	}
	return 0;
}

static __noinline int look_at_datagram(struct __sk_buff *skb, bool out)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	u32 version;
	u8 head[5];
	int number;

	if (!sk || !parse(skb, &p, out))
		return 0;
	if (is_dns_datagram(&p)) {
		tell(skb, &p, 0, 0, out);
		return 0;
	}
	if (p.length < INITIAL_LEAST || bpf_skb_load_bytes(skb, p.header, head, sizeof(head)))
		return 0;
	version = (u32)head[1] << 24 | (u32)head[2] << 16 | (u32)head[3] << 8 | head[4];
	if (version == QUIC_1 ? (head[0] & 0xf0) != 0xc0 : version != QUIC_2 || (head[0] & 0xf0) != 0xd0)
		return 0;
	number = count_initial(skb, &p, out);
	if (number >= 0)
		tell(skb, &p, 0, number, out);
	return 0;
}

/* `ports` and what follows them of a datagram, as far as it is in one piece. */
static __always_inline bool is_worth_a_look(const u8 *ports, const u8 *end, u32 length)
{
	if (is_port_of_messages((u16)ports[0] << 8 | ports[1]) || is_port_of_messages((u16)ports[2] << 8 | ports[3]))
		return true;
	return length >= INITIAL_LEAST && (ports + 9 > end || (ports[8] & 0xc0) == 0xc0);
}

/* Nearly all packets end here, and by as few steps as will do. */
static __always_inline int look(struct __sk_buff *skb, const bool out)
{
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;
	u64 past;

	if (!sk || data + 28 > end)
		return PASS;
	if (data[0] == 0x45 && data[9] == IPPROTO_UDP) {
		if (!is_worth_a_look(data + 20, end, skb->len))
			return PASS;
		goto datagram;
	} else if (data[0] >> 4 == 6 && data + 48 <= end && data[6] == IPPROTO_UDP) {
		if (!is_worth_a_look(data + 40, end, skb->len))
			return PASS;
		goto datagram;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		goto datagram;	/* with options */
	if (out) {
		/* This packet is counted already (__tcp_transmit_skb()). Who has sent nothing only acknowledges. */
		past = tp->bytes_sent - tp->bytes_retrans;
		if (past - 1 < FIRST_BYTES + skb->len)
			look_at_segment(skb, past, tp->snd_nxt, true);
	} else {
		past = tp->bytes_received;
		if (past < FIRST_BYTES)
			look_at_segment(skb, past, tp->rcv_nxt, false);
	}
	return PASS;
datagram:	/* called in one place only: the verifier looks at it again for each */
	look_at_datagram(skb, out);
	return PASS;
}

SEC("cgroup_skb/egress")
int payload_out(struct __sk_buff *skb)
{
	return look(skb, true);
}

SEC("cgroup_skb/ingress")
int payload_in(struct __sk_buff *skb)
{
	return look(skb, false);
}
