// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Every byte that a call moves through a socket of the network, whatever the call: what the
 * kernel says at the end of each send and receive (6.3+), and for what leaves a connection's
 * receive queue in other ways (splice, zero copy) how far that was read.
 *
 * AF_UNIX and netlink sockets come by here as well, and are left out at once.
 */
#define HAS_BUDGETS
#define MAKES_PARTS
#include "data.bpf.h"

LICENSE("Dual BSD/GPL");

SEC("tp_btf/sock_send_length")
int BPF_PROG(bytes_sent, const struct sock *sk, const int ret, const int flags)
{
	(void)flags;
	return sent(ctx, sk, ret, TYPED);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(bytes_received, const struct sock *sk, const int ret, const int flags)
{
	return received(ctx, sk, ret, flags, TYPED);
}

/* Whoever takes bytes out of a connection's receive queue comes by here in the end. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(stream_read, const struct sock *sk)
{
	return taken_out(ctx, sk, TYPED);
}

/* The last of a connection: its state is CLOSE and no file leads to it any more. */
static __always_inline int gone(void *ctx, const struct sock *sk, const bool typed)
{
	u64 key = (u64)sk;
	struct socket_state *s = bpf_map_lookup_elem(MAP(tails), &key);
	struct tally *t = tally_of(KIND_TAIL);
	struct socket_record r;
	struct part *part;

	if (!s || !t)
		return 0;
	part = part_of_owner(s);
	if (!part) {			/* nothing was moved, before or since */
		bpf_map_delete_elem(MAP(tails), &key);
		return 0;
	}
	fill(&r, s, KIND_TAIL);
	read_addresses(&r, sk, typed);
	if (!r.dport)
		r.dport = s->dport;
	read_totals(&r, sk, typed);
	read_moved(&r, part);
	r.state = TCP_CLOSE;
	if (bpf_map_delete_elem(MAP(tails), &key))
		return 0;
	part->flow = 0;
	ship(ctx, &r, s->excluded, t);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(stream_gone, const struct sock *sk)
{
	return gone(ctx, sk, TYPED);
}

/* Addresses and ports of a packet; nothing of a later fragment, which has no ports. */
static __always_inline bool read_packet(struct talk *talk, const struct sk_buff *skb, const bool out, const bool typed)
{
	unsigned char *head = FIELD(typed, skb, head);
	void *network = head + FIELD(typed, skb, network_header);
	u16 protocol = FIELD(typed, skb, protocol);
	struct ipv6hdr six;
	struct iphdr four;
	u16 ports[2];
	u8 above;

	if (protocol == __builtin_bswap16(ETH_P_IP)) {
		bpf_core_read(&four.protocol, 1, &((struct iphdr *)network)->protocol);
		above = four.protocol;
		if (above == IPPROTO_TCP)
			return false;
		bpf_core_read(&four.frag_off, 2, &((struct iphdr *)network)->frag_off);
		if (four.frag_off & __builtin_bswap16(0x1fff))
			return false;
		bpf_core_read(&four.saddr, 4, &((struct iphdr *)network)->saddr);
		bpf_core_read(&four.daddr, 4, &((struct iphdr *)network)->daddr);
		map_ipv4(talk->local, out ? four.saddr : four.daddr);
		map_ipv4(talk->peer, out ? four.daddr : four.saddr);
	} else if (protocol == __builtin_bswap16(ETH_P_IPV6)) {
		bpf_core_read(&six.nexthdr, 1, &((struct ipv6hdr *)network)->nexthdr);
		above = six.nexthdr;
		if (above == IPPROTO_TCP)
			return false;
		bpf_core_read(out ? talk->local : talk->peer, 16, &((struct ipv6hdr *)network)->saddr);
		bpf_core_read(out ? talk->peer : talk->local, 16, &((struct ipv6hdr *)network)->daddr);
	} else {
		return false;
	}
	talk->local_port = talk->port = 0;
	if (above == IPPROTO_UDP || above == IPPROTO_UDPLITE || above == IPPROTO_SCTP) {
		bpf_probe_read_kernel(ports, sizeof(ports), head + FIELD(typed, skb, transport_header));
		talk->local_port = __builtin_bswap16(out ? ports[0] : ports[1]);
		talk->port = __builtin_bswap16(out ? ports[1] : ports[0]);
	}
	talk->protocol = above;
	return true;
}

/* Then its own end is only wanted for another part. */
static __always_inline bool has_part(const struct talk *talk)
{
	u64 key = talk->sk;
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);
	struct place *place;
	u32 slot;

	if (!s || !s->slot)
		return false;
	slot = s->slot - 1;
	place = bpf_map_lookup_elem(MAP(places), &slot);
	return place && place->key.sk == key && place->key.port == talk->port &&
	       same_address(place->key.peer, talk->peer);
}

/* A datagram goes to a device, in the context of who sends it: the first device that it comes to. */
static __always_inline int queued(const struct sk_buff *skb)
{
	const struct sock *sk = FIELD(TYPED, skb, sk);
	u16 family, protocol;
	struct talk seen = {};
	struct talk *talk;
	bool raw, fresh, again;

	if (!sk)
		return 0;
	family = FIELD(TYPED, sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = FIELD(TYPED, sk, sk_protocol);
	/* A connected one tells both ends itself. */
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP ||
	    FIELD(TYPED, sk, __sk_common.skc_dport))
		return 0;
	raw = FIELD(TYPED, sk, sk_type) == SOCK_RAW;
	/* ICMP of the kernel's own: answers, for one, on any task. No call ends with it. */
	if (raw && has_no_file(sk))
		return 0;
	talk = find_talk(true);
	fresh = talk && !talk->ended;
	again = fresh && talk->sk == (u64)sk;
	/* What the kernel itself sends over loopback, while this task's own send has not returned. */
	if (fresh && !again && has_no_file(sk))
		return 0;
	if (again && (talk->local_known || has_part(talk)))
		return 0;
	if (!read_packet(&seen, skb, true, TYPED))
		return 0;
	/* What a tunnel adds has another protocol; of a raw socket it is the sender's to choose. */
	if (raw)
		seen.protocol = protocol;
	if (again) {
		if (seen.protocol != talk->protocol || seen.port != talk->port || !same_address(seen.peer, talk->peer))
			return 0;
		seen.named = talk->named;
	}
	seen.sk = (u64)sk;
	seen.local_known = 1;
	keep_talk(talk, &seen, true);
	return 0;
}

/* Never skipped for another: softirqs are off here, and with them preemption (rcu_read_lock_bh() in __dev_queue_xmit()). */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(datagram_queued, const struct sk_buff *skb)
{
	(void)ctx;
	return queued(skb);
}

/* A datagram is being read, in the context of who reads it. Most of UDP is copied in another way, and is told of by
 * a program at a cgroup (group.bpf.c). */
static __always_inline int taken(const struct sk_buff *skb, const bool typed)
{
	u16 protocol = FIELD(typed, skb, protocol);
	struct talk seen = {};

	if (protocol != __builtin_bswap16(ETH_P_IP) && protocol != __builtin_bswap16(ETH_P_IPV6))
		return 0;
	if (read_packet(&seen, skb, false, typed))
		seen.local_known = 1;
	else
		seen.ended = 2;
	keep_talk(find_talk(false), &seen, false);
	return 0;
}

SEC("tp_btf/skb_copy_datagram_iovec")
int BPF_PROG(datagram_taken, const struct sk_buff *skb)
{
	(void)ctx;
	return taken(skb, TYPED);
}

/*
 * The same at the classic tracepoints, for kernels that can preempt the programs above and skip them for others
 * meanwhile (see `seen_to`): perf's part of a tracepoint is not preempted (7.0, commit a46023d5616e and those
 * before it), so here these are in place of the others, not beside them. It costs a little more.
 *
 * A softirq that interrupts any program of this kind passes over all others of it. So they are only where the task
 * itself moves bytes.
 */
SEC("tp/sock/sock_send_length")
int bytes_sent_classic(struct trace_event_raw_sock_msg_length *ctx)
{
	return sent(ctx, ctx->sk, ctx->ret, false);
}

SEC("tp/sock/sock_recv_length")
int bytes_received_classic(struct trace_event_raw_sock_msg_length *ctx)
{
	return received(ctx, ctx->sk, ctx->ret, ctx->flags, false);
}

SEC("tp/tcp/tcp_rcv_space_adjust")
int stream_read_classic(struct trace_event_raw_tcp_event_sk *ctx)
{
	return taken_out(ctx, ctx->skaddr, false);
}

/* Beside the other: who finds the entry in `tails` tells of it. The other runs with softirqs off, and so without being
 * preempted, but for the few sockets that end in what waited for their last release. */
SEC("tp/tcp/tcp_destroy_sock")
int stream_gone_stand_in(struct trace_event_raw_tcp_event_sk *ctx)
{
	return gone(ctx, ctx->skaddr, false);
}

SEC("tp/skb/skb_copy_datagram_iovec")
int datagram_taken_classic(struct trace_event_raw_skb_copy_datagram_iovec *ctx)
{
	return taken(ctx->skbaddr, false);
}
