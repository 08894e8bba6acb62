// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Every byte that a call moves through a socket of the network, whatever the call: what the
 * kernel says at the end of each send and receive (6.3+), and for what leaves a connection's
 * receive queue in other ways (splice, zero copy) how far that was read.
 *
 * AF_UNIX and netlink sockets come by here as well, and are left out at once.
 */
#define MAKES_PARTS
#include "data.bpf.h"

LICENSE("Dual BSD/GPL");

enum moved_family { NOT_OURS, STREAM, DATAGRAM };

static __always_inline enum moved_family sort_of(const struct sock *sk, u16 family, const bool typed)
{
	if (family == AF_INET || family == AF_INET6)
		return FIELD(typed, sk, sk_protocol) == IPPROTO_TCP ? STREAM : DATAGRAM;
	return family == AF_PACKET || family == AF_VSOCK ? DATAGRAM : NOT_OURS;
}

/* TLS in the kernel and the like: what was read is not what the queue held, and they read in softirqs. */
static __always_inline bool has_upper_layer(const struct sock *sk)
{
	return BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_ops);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(bytes_sent, const struct sock *sk, const int ret, const int flags)
{
	u16 family = sk->__sk_common.skc_family;
	enum moved_family sort = sort_of(sk, family, TYPED);

	(void)flags;
	if (ret < 0 || sort == NOT_OURS)
		return 0;
	if (sort == DATAGRAM)
		datagram_moved(ctx, sk, family, ret, true, TYPED);
	else if (ret)
		stream_moved(ctx, sk, ret, true, false, TYPED);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(bytes_received, const struct sock *sk, const int ret, const int flags)
{
	u16 family = sk->__sk_common.skc_family;
	enum moved_family sort = sort_of(sk, family, TYPED);

	if (ret < 0 || sort == NOT_OURS || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	if (sort == DATAGRAM)
		datagram_moved(ctx, sk, family, ret, false, TYPED);
	else if (ret && has_upper_layer(sk))
		stream_moved(ctx, sk, ret, false, false, TYPED);
	return 0;
}

/* Whoever takes bytes out of a connection's receive queue comes by here in the end. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(stream_read, const struct sock *sk)
{
	if (!has_upper_layer(sk))
		stream_consumed(ctx, sk, TYPED);
	return 0;
}

/* The last of a connection: its state is CLOSE and no file leads to it any more. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(stream_gone, const struct sock *sk)
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
	read_addresses(&r, sk, TYPED);
	if (!r.dport)
		r.dport = s->dport;
	read_totals(&r, sk, TYPED);
	read_moved(&r, part);
	r.state = TCP_CLOSE;
	if (bpf_map_delete_elem(MAP(tails), &key))
		return 0;
	part->flow = 0;
	ship(ctx, &r, s->excluded, t);
	return 0;
}


/* Addresses and ports of a packet; nothing of a later fragment, which has no ports. */
static __always_inline bool read_packet(struct talk *talk, const struct sk_buff *skb, const bool out)
{
	unsigned char *head = skb->head;
	void *network = head + skb->network_header;
	u16 protocol = skb->protocol;
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
		bpf_probe_read_kernel(ports, sizeof(ports), head + skb->transport_header);
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

/* A socket that no descriptor leads to. */
static __always_inline bool is_kernels(const struct sock *sk)
{
	return !BPF_CORE_READ(sk, sk_socket, file);
}

/* A datagram goes to a device, in the context of who sends it: the first device that it comes to. */
SEC("tp_btf/net_dev_queue")
int BPF_PROG(datagram_queued, const struct sk_buff *skb)
{
	const struct sock *sk = skb->sk;
	u32 at = 1, tid = bpf_get_current_pid_tgid();
	u16 family, protocol;
	struct talk seen = {};
	struct talk *talk;
	bool again;

	(void)ctx;
	if (!sk)
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = sk->sk_protocol;
	/* A connected one tells both ends itself. */
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP || sk->__sk_common.skc_dport)
		return 0;
	talk = bpf_map_lookup_elem(MAP(talks), &at);
	if (!talk)
		return 0;
	again = talk->tid == tid && talk->sk == (u64)sk;
	/* What the kernel itself answers over loopback, while this task's own send has not returned. */
	if (!again && talk->tid == tid && is_kernels(sk))
		return 0;
	if (again && (talk->local_known || has_part(talk)))
		return 0;
	if (!read_packet(&seen, skb, true))
		return 0;
	/* What a tunnel adds has another protocol; of a raw socket it is the sender's to choose. */
	if (sk->sk_type == SOCK_RAW)
		seen.protocol = protocol;
	if (again) {
		if (seen.protocol != talk->protocol || seen.port != talk->port || !same_address(seen.peer, talk->peer))
			return 0;
		seen.named = talk->named;
	}
	seen.sk = (u64)sk;
	seen.tid = tid;
	seen.local_known = 1;
	*talk = seen;
	return 0;
}

/* A datagram is being read, in the context of who reads it. Most of UDP is copied in another way, and is told of by
 * a program at a cgroup (group.bpf.c). */
SEC("tp_btf/skb_copy_datagram_iovec")
int BPF_PROG(datagram_taken, const struct sk_buff *skb)
{
	u16 protocol = skb->protocol;
	struct talk *talk;
	u32 at = 0;

	(void)ctx;
	if (protocol != __builtin_bswap16(ETH_P_IP) && protocol != __builtin_bswap16(ETH_P_IPV6))
		return 0;
	talk = bpf_map_lookup_elem(MAP(talks), &at);
	if (!talk)
		return 0;
	talk->tid = 0;
	talk->sk = 0;
	if (read_packet(talk, skb, false)) {
		talk->local_known = 1;
		talk->tid = bpf_get_current_pid_tgid();
	}
	return 0;
}
