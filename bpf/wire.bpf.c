// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What goes over each network device, as the device itself counts it: whose packets these are
 * where that is known, and what sort they are where it is not. Only with --account-wire.
 *
 * A packet that goes has its socket with it. One that comes has none yet: it is counted by its
 * sort, and taken from there when a socket, or a device that it is forwarded to, gets it.
 */
#include "socket.bpf.h"

LICENSE("Dual BSD/GPL");

/* Fields that the other probes do not read. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device___wire { int ifindex; unsigned short type; possible_net_t nd_net; };
struct sk_buff___wire {
	struct sock *sk;
	struct net_device___wire *dev;
	unsigned int len;
	int skb_iif;
	u16 protocol;			/* network order */
	u16 transport_header;
	u16 network_header;
	u16 mac_header;
	u32 end;			/* where struct skb_shared_info is, from head on */
	unsigned char *head;
	unsigned char *data;
};
struct skb_shared_info___wire { u16 gso_segs; u16 gso_size; };
struct sock_common___wire { volatile unsigned char skc_state; struct sock *skc_listener; };
struct mptcp_subflow_context { struct sock *conn; };
struct inet_connection_sock___wire { void *icsk_ulp_data; };
struct tcp_sock___wire { bool is_mptcp; };
#pragma clang attribute pop

#define ETH_P_ARP 0x0806
#define IPPROTO_ICMP 1
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMPV6 58
#define ND_FIRST 133			/* router and neighbour solicitations and advertisements, */
#define ND_LAST 137			/* redirects (RFC 4861) */
#define TCP_RST 0x04			/* in byte 13 of the header */
#define TCP_NEW_SYN_RECV 12
#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000
#define NETDEV_TX_BUSY 0x10		/* the packet stays where it was, to be tried again */
#define DEVICE_TRIES 16
#define LINK_MOST 64
#define SHORTEST 46			/* bytes that a frame of Ethernet has at least, without its header */
#define ARPHRD_LOOPBACK 772
#define PASS 1

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, DEVICES + 1);	/* the last one stands for all that there was no place for */
	__type(key, u32);
	__type(value, struct device_bytes);
} devices SEC(".maps");

/* A packet that has come, until somebody gets it: by where its bytes are, which stays when it is cloned. */
struct arrival {
	u32 device;
	u32 bytes;
	u32 network_bytes;		/* from the IP header on */
	u32 payload;			/* of a fragment */
	u16 headers;			/* of a fragment, from that of IP to its payload */
	u16 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct arrival);
} arrivals SEC(".maps");

/* The last one of each CPU: on its way what is shared with its sender may be copied. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} last_arrival SEC(".maps");

/* What a packet is, by its headers. */
struct facts {
	u32 bytes;			/* with the header of the link */
	u32 more_headers;		/* if it were cut into the segments that it stands for */
	u32 payload;			/* as in struct arrival */
	u16 headers;
	u16 kind;
};

/* Two that come first may both take a place for the same device: who reads adds them up. */
static __always_inline struct device_bytes *device_of(const struct net_device___wire *dev, u32 *place)
{
	u32 netns = BPF_CORE_READ(dev, nd_net.net, ns.inum), index = dev->ifindex;
	u32 first = (netns * 2654435761U) ^ (index * 40503U);
	struct device_bytes *device;

	for (u32 i = 0; i < DEVICE_TRIES; i++) {
		*place = (first + i) % DEVICES;
		device = bpf_map_lookup_elem(MAP(devices), place);
		if (!device || (device->netns == netns && device->index == index))
			return device;
		if (!device->netns && claim(&device->taken)) {
			device->index = index;
			*(volatile u32 *)&device->netns = netns;
			return device;
		}
	}
	*place = DEVICES;
	return bpf_map_lookup_elem(MAP(devices), place);
}

/* `link`: the length of the link's header, `network`: where that of IP is. */
static __always_inline void look(struct facts *facts, const struct sk_buff___wire *skb, const unsigned char *head,
				 const unsigned char *network, u32 link)
{
	const struct skb_shared_info___wire *shared = (const void *)(head + skb->end);
	u16 protocol = __builtin_bswap16(skb->protocol), fragment = 0, segments;
	u8 above = 0, byte = 0;
	u32 headers, upper = 0;

	facts->more_headers = 0;
	facts->kind = WIRE_OTHER;
	if (protocol == ETH_P_ARP)
		facts->kind = WIRE_ARP;
	if (protocol == ETH_P_IP) {
		bpf_probe_read_kernel(&byte, 1, network);
		bpf_probe_read_kernel(&fragment, 2, network + 6);
		bpf_probe_read_kernel(&above, 1, network + 9);
		headers = (byte & 15) * 4;
		if (__builtin_bswap16(fragment) & (FRAGMENT_OFFSET | MORE_FRAGMENTS))
			facts->kind = WIRE_FRAGMENT;
	} else if (protocol == ETH_P_IPV6) {
		bpf_probe_read_kernel(&above, 1, network + 6);
		headers = 40;
		if (above == IPPROTO_FRAGMENT) {
			facts->kind = WIRE_FRAGMENT;
			headers += 8;
		}
	} else {
		return;
	}
	facts->headers = headers;
	facts->payload = facts->bytes - link - headers;
	if (facts->kind == WIRE_FRAGMENT)
		return;
	network += headers;
	if (above == IPPROTO_TCP) {
		bpf_probe_read_kernel(&byte, 1, network + 12);
		upper = (byte >> 4) * 4;
		bpf_probe_read_kernel(&byte, 1, network + 13);
		if (byte & TCP_RST)
			facts->kind = WIRE_RST;
	} else if (above == IPPROTO_UDP) {
		upper = 8;
	} else if (above == IPPROTO_ICMP) {
		facts->kind = WIRE_ICMP;
	} else if (above == IPPROTO_ICMPV6) {
		bpf_probe_read_kernel(&byte, 1, network);
		facts->kind = byte >= ND_FIRST && byte <= ND_LAST ? WIRE_ND : WIRE_ICMP;
	}
	segments = BPF_CORE_READ(shared, gso_segs);
	if (segments > 1 && BPF_CORE_READ(shared, gso_size))
		facts->more_headers = (segments - 1) * (link + headers + upper);
}

static __always_inline void add_bytes(u64 *counter, s64 bytes)
{
	__sync_fetch_and_add(counter, bytes);
}

/* The socket that a program has, of which this is one of the ways; 0 if it is none (MPTCP is 5.6+). */
static __always_inline u64 socket_above(u64 sk)
{
	const struct mptcp_subflow_context *subflow;

	if (!bpf_core_field_exists(((struct tcp_sock___wire *)0)->is_mptcp) ||
	    !bpf_core_type_exists(struct mptcp_subflow_context))
		return 0;
	if (BPF_CORE_READ((const struct sock *)sk, sk_protocol) != IPPROTO_TCP ||
	    !BPF_CORE_READ((const struct tcp_sock___wire *)sk, is_mptcp))
		return 0;
	subflow = BPF_CORE_READ((const struct inet_connection_sock___wire *)sk, icsk_ulp_data);
	return subflow ? (u64)BPF_CORE_READ(subflow, conn) : 0;
}

/* Whose: a process's, as far as the other probes know it; `otherwise` the sort of the packet. */
static __always_inline u32 kind_of_socket(u64 key, u32 otherwise)
{
	struct socket_state *s = bpf_map_lookup_elem(MAP(sockets), &key);

	if (s && s->tgid)
		return WIRE_OWNED;
	key = socket_above(key);
	s = key ? bpf_map_lookup_elem(MAP(sockets), &key) : NULL;
	if (s && s->tgid)
		return WIRE_OWNED;
	return otherwise == WIRE_OTHER || otherwise == WIRE_FRAGMENT ? WIRE_SOCKET : otherwise;
}

/* What lies there may be of another packet, whose memory was used again: one that nobody got. A fragment is
 * less than what was put together of it, and what is short comes with padding. */
static __always_inline bool fits(const struct arrival *came, u32 bytes)
{
	if (came->kind == WIRE_FRAGMENT)
		return bytes >= came->network_bytes;
	return bytes == came->network_bytes || (bytes < came->network_bytes && came->network_bytes <= SHORTEST);
}

/* A packet that came has found somebody, and is not of its sort any more. `bytes`: from the IP header on. */
static __always_inline void take_arrival(u64 head, u32 kind, u32 bytes)
{
	struct arrival *found = bpf_map_lookup_elem(MAP(arrivals), &head), came;
	u32 others, link, zero = 0;
	struct device_bytes *device;
	u64 *last;

	if (!found || !fits(found, bytes)) {
		last = bpf_map_lookup_elem(MAP(last_arrival), &zero);
		if (!last)
			return;
		head = *last;
		found = bpf_map_lookup_elem(MAP(arrivals), &head);
		if (!found || !fits(found, bytes))
			return;
	}
	came = *found;
	if (bpf_map_delete_elem(MAP(arrivals), &head))
		return;
	device = bpf_map_lookup_elem(MAP(devices), &came.device);
	if (!device || kind >= WIRE_KINDS || came.kind >= WIRE_KINDS)
		return;
	if (came.kind == WIRE_FRAGMENT && came.payload && bytes > came.payload) {
		/* Put together: the others were counted, too, each with such headers. */
		link = came.bytes - came.payload - came.headers;
		bytes -= came.headers == 48 ? 40 : came.headers;
		others = (bytes - came.payload + came.payload - 1) / came.payload;
		came.bytes = bytes + (others + 1) * (link + came.headers);
	}
	add_bytes(&device->in[came.kind], -(s64)came.bytes);
	add_bytes(&device->in[kind], came.bytes);
}

/* The loopback device counts none of the header that its packets have, too (loopback_xmit()). */
static __always_inline u32 counted_link(const struct net_device___wire *dev, u32 link)
{
	return dev->type == ARPHRD_LOOPBACK ? 0 : link;
}

static __always_inline void gone(const struct sk_buff___wire *skb, const struct net_device___wire *dev, s64 times)
{
	/* By helper: kernels differ in what may be done with pointers that a typed probe loads. */
	const unsigned char *head = BPF_CORE_READ(skb, head), *network = head + skb->network_header;
	u64 sk = (u64)BPF_CORE_READ(skb, sk);
	struct device_bytes *device;
	u32 link = network - BPF_CORE_READ(skb, data), counted = counted_link(dev, link), place;
	struct facts facts = {};

	facts.bytes = skb->len - link + counted;
	look(&facts, skb, head, network, counted);
	if (sk) {
		/* A connection that is not yet one answers for its listener. */
		if (BPF_CORE_READ((const struct sock_common___wire *)sk, skc_state) == TCP_NEW_SYN_RECV)
			sk = (u64)BPF_CORE_READ((const struct sock_common___wire *)sk, skc_listener);
		facts.kind = kind_of_socket(sk, facts.kind);
	} else if (skb->skb_iif) {
		facts.kind = WIRE_FORWARDED;
		if (times > 0)
			take_arrival((u64)head, WIRE_FORWARDED, facts.bytes - counted);
	}
	device = device_of(dev, &place);
	if (!device || facts.kind >= WIRE_KINDS)
		return;
	add_bytes(&device->out[facts.kind], times * facts.bytes);
	if (facts.more_headers)
		add_bytes(&device->more_out, times * facts.more_headers);
}

/* Right before the device gets it, cut to what the device takes. */
SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(packet_goes, const struct sk_buff___wire *skb, const struct net_device___wire *dev)
{
	(void)ctx;
	gone(skb, dev, 1);
	return 0;
}

/* The device had no room: the packet is still there, and will come by again. */
SEC("tp_btf/net_dev_xmit")
int BPF_PROG(packet_stays, const struct sk_buff___wire *skb, int rc, const struct net_device___wire *dev)
{
	(void)ctx;
	if (rc == NETDEV_TX_BUSY)
		gone(skb, dev, -1);
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(packet_comes, const struct sk_buff___wire *skb)
{
	const unsigned char *head = BPF_CORE_READ(skb, head), *data = BPF_CORE_READ(skb, data);
	u32 link = data - (head + skb->mac_header), place;
	struct device_bytes *device;
	struct facts facts = {};
	struct arrival came = {};
	u64 key = (u64)head, *last;
	u32 zero = 0;

	(void)ctx;
	link = link > LINK_MOST ? 0 /* the device has none, and it was never set */ : counted_link(skb->dev, link);
	facts.bytes = skb->len + link;
	look(&facts, skb, head, data, link);
	device = device_of(skb->dev, &place);
	if (!device || facts.kind >= WIRE_KINDS)
		return 0;
	add_bytes(&device->in[facts.kind], facts.bytes);
	if (facts.more_headers)
		add_bytes(&device->more_in, facts.more_headers);
	came.device = place;
	came.bytes = facts.bytes;
	came.network_bytes = facts.bytes - link;
	came.payload = facts.payload;
	came.headers = facts.headers;
	came.kind = facts.kind;
	bpf_map_update_elem(MAP(arrivals), &key, &came, BPF_ANY);
	last = bpf_map_lookup_elem(MAP(last_arrival), &zero);
	if (last)
		*last = key;
	return 0;
}

/* A socket gets it. */
SEC("cgroup_skb/ingress")
int packet_taken(const struct __sk_buff *ctx)
{
	const struct sk_buff___wire *skb = (const void *)address_of(ctx);
	const struct bpf_sock *sk = ctx->sk;
	u32 bytes = ctx->len;

	if (sk)
		take_arrival((u64)BPF_CORE_READ(skb, head), kind_of_socket(address_of(sk), WIRE_OTHER), bytes);
	return PASS;
}
