// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What only programs at a cgroup are told: where a datagram is to go while its way is still
 * being looked for, where one has come from, and that a socket without connections is closed. They look, and
 * let everything pass.
 */
#define HAS_BUDGETS
#include "data.bpf.h"

LICENSE("Dual BSD/GPL");

#define PASS 1

static __always_inline int other_end(const struct bpf_sock_addr *ctx, const bool out, const bool six)
{
	struct talk *known = find_talk(out), talk = {};
	u32 *peer = (u32 *)talk.peer;

	if (!ctx->sk)
		return PASS;
	/* What was seen of the packet itself says more. */
	if (!out && known && !known->ended && known->local_known)
		return PASS;
	talk.sk = address_of(ctx->sk);
	talk.protocol = ctx->protocol;
	talk.port = __builtin_bswap16(ctx->user_port);
	talk.named = out;
	if (six) {
		peer[0] = ctx->user_ip6[0];
		peer[1] = ctx->user_ip6[1];
		peer[2] = ctx->user_ip6[2];
		peer[3] = ctx->user_ip6[3];
	} else {
		map_ipv4(talk.peer, ctx->user_ip4);
	}
	keep_talk(known, &talk, out);
	return PASS;
}

/* Only of datagrams (UDP, UDP-Lite) that are sent to an address of their own. */
SEC("cgroup/sendmsg4")
int datagram_goes(const struct bpf_sock_addr *ctx)
{
	return other_end(ctx, true, false);
}

SEC("cgroup/sendmsg6")
int datagram_goes6(const struct bpf_sock_addr *ctx)
{
	return other_end(ctx, true, true);
}

/* Only of datagrams whose reader asks where they come from. */
SEC("cgroup/recvmsg4")
int datagram_came(const struct bpf_sock_addr *ctx)
{
	return other_end(ctx, false, false);
}

SEC("cgroup/recvmsg6")
int datagram_came6(const struct bpf_sock_addr *ctx)
{
	return other_end(ctx, false, true);
}

/* Its last descriptor is closed, in the process that did that. */
SEC("cgroup/sock_release")
int socket_released(struct bpf_sock *ctx)
{
	u64 key = address_of(ctx);
	struct tally *t = tally_of(KIND_FLOW_END);
	struct socket_state *s;
	struct socket_record r;
	struct place *place;
	struct part *part;
	u32 slot;

	if (ctx->protocol == IPPROTO_TCP)
		return PASS;
	s = bpf_map_lookup_elem(MAP(sockets), &key);
	if (!s || !t || s->role < ROLE_SENT || s->protocol != ctx->protocol)
		return PASS;
	slot = s->slot - 1;
	part = s->slot ? part_at(slot) : NULL;
	place = s->slot ? bpf_map_lookup_elem(MAP(places), &slot) : NULL;
	if (!part || !place || !part->flow || part->socket != s->flow || s->excluded) {
		bpf_map_delete_elem(MAP(sockets), &key);
		return PASS;
	}
	fill(&r, s, KIND_FLOW_END);
	read_addresses(&r, (const struct sock *)key, false);
	r.h.tgid = part->tgid;
	r.h.flags = part->tgid ? 0 : FLAG_KERNEL;
	r.h.start = part->start;
	r.flow = part->flow;
	r.dport = place->key.port;
	__builtin_memcpy(r.daddr, place->key.peer, 16);
	r.protocol = s->protocol;
	r.type = ctx->type;
	r.socket = s->flow;
	read_moved(&r, part);
	if (place->keyed)
		bpf_map_delete_elem(MAP(part_of), &place->key);
	bpf_map_delete_elem(MAP(sockets), &key);
	part->flow = 0;
	ship(ctx, &r, false, t);
	return PASS;
}
