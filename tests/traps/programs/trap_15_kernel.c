/* Trap 15: sockets on which the kernel itself moves bytes: a tunnel's (vxlan), whose datagrams carry those of a process; a
 * connection that the kernel fills from another one (a sockmap of BPF), in a thread of its own; and kTLS, where the
 * kernel sends once more, encrypted, what a process sent. */
#include "flows.h"

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/tls.h>
#include <net/if_arp.h>
#include <sys/resource.h>
#include <sys/sendfile.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#define TUNNEL_PORT 4789
#define RELAYED 300007

static char block[1 << 20];

/* ---- vxlan ---- */

static struct {
	struct nlmsghdr header;
	struct ifinfomsg link;
	char attributes[512];
} request;

static struct rtattr *open_attribute(char **at, unsigned short kind)
{
	struct rtattr *opened = (struct rtattr *)*at;

	opened->rta_type = kind;
	*at += RTA_LENGTH(0);
	return opened;
}

static void shut_attribute(char **at, struct rtattr *opened)
{
	opened->rta_len = (unsigned short)(*at - (char *)opened);
	*at = (char *)opened + RTA_ALIGN(opened->rta_len);
}

static void put_attribute(char **at, unsigned short kind, const void *value, size_t size)
{
	struct rtattr *opened = open_attribute(at, kind);

	memcpy(*at, value, size);
	*at += size;
	shut_attribute(at, opened);
}

/* A tunnel over the loopback interface to another address of it, where the tunnel itself is the other end. */
static bool make_tunnel(void)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char rest[512];
	} answer;
	int handle = CHECK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	uint32_t id = 42, near = htonl(INADDR_LOOPBACK), far = htonl(INADDR_LOOPBACK + 1);
	uint16_t port = htons(TUNNEL_PORT);
	char *at = request.attributes;
	struct rtattr *info, *data;

	request.header = (struct nlmsghdr){.nlmsg_type = RTM_NEWLINK,
					   .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK};
	put_attribute(&at, IFLA_IFNAME, "tunnel", 7);
	info = open_attribute(&at, IFLA_LINKINFO);
	put_attribute(&at, IFLA_INFO_KIND, "vxlan", 6);
	data = open_attribute(&at, IFLA_INFO_DATA);
	put_attribute(&at, IFLA_VXLAN_ID, &id, sizeof(id));
	put_attribute(&at, IFLA_VXLAN_LOCAL, &near, sizeof(near));
	put_attribute(&at, IFLA_VXLAN_GROUP, &far, sizeof(far));
	put_attribute(&at, IFLA_VXLAN_PORT, &port, sizeof(port));
	shut_attribute(&at, data);
	shut_attribute(&at, info);
	request.header.nlmsg_len = (unsigned)(at - (char *)&request);
	MUST(send(handle, &request, request.header.nlmsg_len, 0) == (ssize_t)request.header.nlmsg_len);
	CHECK(recv(handle, &answer, sizeof(answer), 0));
	close(handle);
	MUST(answer.header.nlmsg_type == NLMSG_ERROR);
	errno = -answer.error.error;
	if (errno == 0)
		return true;
	MUST(errno == EOPNOTSUPP || errno == ENODEV);
	return false;
}

/* How many packets went into the tunnel, by the interface's own count. */
static unsigned long packets_in(void)
{
	FILE *table = fopen("/proc/thread-self/net/dev", "re");
	unsigned long count = 0;
	char line[512];

	MUST(table != NULL);
	while (fgets(line, sizeof(line), table) != NULL)
		if (sscanf(line, " tunnel: %*u %*u %*u %*u %*u %*u %*u %*u %*u %lu", &count) == 1)
			break;
	fclose(table);
	return count;
}

/* Datagrams through the tunnel to somebody beyond it. */
static void tunnel(void)
{
	struct ifreq interface = {.ifr_name = "tunnel"};
	struct arpreq neighbour = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "tunnel"};
	struct address own = address_of("198.51.100.1", 0), mask = address_of("255.255.255.0", 0),
		       there = address_of("198.51.100.2", 9);
	struct moved moved = {0};
	struct ends ends;
	int handle;

	if (!make_tunnel()) {
		missing("vxlan");
		return;
	}
	handle = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	memcpy(&interface.ifr_addr, &own.storage, sizeof(interface.ifr_addr));
	CHECK(ioctl(handle, SIOCSIFADDR, &interface));
	memcpy(&interface.ifr_netmask, &mask.storage, sizeof(interface.ifr_netmask));
	CHECK(ioctl(handle, SIOCSIFNETMASK, &interface));
	CHECK(ioctl(handle, SIOCGIFFLAGS, &interface));
	interface.ifr_flags |= IFF_UP;
	CHECK(ioctl(handle, SIOCSIFFLAGS, &interface));
	memcpy(&neighbour.arp_pa, &there.storage, sizeof(neighbour.arp_pa));
	neighbour.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(neighbour.arp_ha.sa_data, "\x02\0\0\0\0\x02", 6);
	CHECK(ioctl(handle, SIOCSARP, &neighbour));
	close(handle);
	handle = udp_bound("198.51.100.1", 0);
	CHECK(connect(handle, (struct sockaddr *)&there.storage, there.length));
	ends = ends_of(handle);
	for (int number = 0; number < 11; number++)
		count_sent(&moved, send(handle, block, 401 + (size_t)number, 0));
	MUST(packets_in() >= 11); /* all of them, and what IPv6 says of itself */
	say("{\"what\":\"tunnel\",\"pid\":%d,\"port\":%d,\"netns\":%" PRIu64 "}", getpid(), TUNNEL_PORT,
	    namespace_inode("net"));
	say_flow("tunnel", "udp", &ends, &moved, "syscall", true);
	close(handle);
}

/* ---- a sockmap ---- */

static int bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int load(const struct bpf_insn *program, unsigned count)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_SK_SKB;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = count;
	attr.license = (uintptr_t) "GPL";
	return bpf(BPF_PROG_LOAD, &attr);
}

static void attach(int map, int program, unsigned kind)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (unsigned)map;
	attr.attach_bpf_fd = (unsigned)program;
	attr.attach_type = kind;
	CHECK(bpf(BPF_PROG_ATTACH, &attr));
}

static void store(int map, uint32_t key, int handle)
{
	union bpf_attr attr;
	uint64_t value = (uint64_t)handle;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (unsigned)map;
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)&value;
	CHECK(bpf(BPF_MAP_UPDATE_ELEM, &attr));
}

/* All that comes in on the socket of entry 0 goes out on that of entry 1. False where there is no such thing. */
static bool redirect(int *map)
{
	const struct bpf_insn parser[] = {
		/* all of it is one message: r0 = skb->len */
		{.code = BPF_LDX | BPF_W | BPF_MEM, .dst_reg = 0, .src_reg = 1, .off = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	/* Kernels before 5.11 charge maps and programs of all of a user's processes to this limit. */
	const struct rlimit unlimited = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
	union bpf_attr attr;
	int parse, verdict;

	setrlimit(RLIMIT_MEMLOCK, &unlimited); /* not everywhere may root do that; newer kernels need it not */
	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_SOCKMAP;
	attr.key_size = 4;
	attr.value_size = 8;
	attr.max_entries = 2;
	*map = bpf(BPF_MAP_CREATE, &attr);
	if (*map == -1)
		return false;
	{
		const struct bpf_insn judge[] = {
			/* bpf_sk_redirect_map(skb, map, 1, 0) */
			{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 2, .src_reg = BPF_PSEUDO_MAP_FD, .imm = *map},
			{0},
			{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 1},
			{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4, .imm = 0},
			{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_sk_redirect_map},
			{.code = BPF_JMP | BPF_EXIT},
		};

		verdict = load(judge, sizeof(judge) / sizeof(*judge));
	}
	parse = load(parser, sizeof(parser) / sizeof(*parser));
	if (parse == -1 || verdict == -1)
		return false;
	attach(*map, parse, BPF_SK_SKB_STREAM_PARSER);
	attach(*map, verdict, BPF_SK_SKB_STREAM_VERDICT);
	return true;
}

/* Where the bytes arrive. */
static void last(struct gate ready, struct gate arrived)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle;
	uint16_t own = local_port(listener);
	struct moved moved = {0};
	struct ends ends;

	MUST(write(ready.ends[1], &own, sizeof(own)) == sizeof(own));
	handle = tcp_accept(listener, "relay-out");
	ends = ends_of(handle);
	while (moved.received < RELAYED)
		count_received(&moved, recv(handle, block, sizeof(block), 0));
	open_gate(arrived);
	drain(handle, &moved);
	say_flow("relay-out", "tcp", &ends, &moved, "syscall", false);
	close(handle);
	_exit(0);
}

/* client -> in of the relay, out of the relay -> sink. The relay makes the two sockets and moves nothing. */
static void relay(void)
{
	struct gate ready = new_gate(), leave = new_gate(), arrived = new_gate();
	uint16_t port, own;
	pid_t sink, middle;
	int handle, map;
	struct moved moved = {0};

	if (!redirect(&map)) {
		missing("sockmap");
		return;
	}
	sink = spawn();
	if (sink == 0)
		last(ready, arrived);
	MUST(read(ready.ends[0], &port, sizeof(port)) == sizeof(port));
	middle = spawn();
	if (middle == 0) {
		struct moved none = {0};
		struct ends in_ends, out_ends;
		int listener = tcp_listener(LOOPBACK, 0, 5), in, out;

		own = local_port(listener);
		MUST(write(ready.ends[1], &own, sizeof(own)) == sizeof(own));
		in = tcp_accept(listener, "relay-in");
		out = tcp_connect(LOOPBACK, port, "relay-out");
		in_ends = ends_of(in);
		out_ends = ends_of(out);
		store(map, 0, in);
		store(map, 1, out);
		open_gate(ready);
		wait_gate(leave); /* all has arrived at the other end by then */
		say_flow("relay-in", "tcp", &in_ends, &none, "", false);
		say_flow("relay-out", "tcp", &out_ends, &none, "", true);
		say("{\"what\":\"relay\",\"pid\":%d,\"count\":%d,\"port\":%u}", getpid(), RELAYED, local_port(out));
		_exit(0);
	}
	MUST(read(ready.ends[0], &own, sizeof(own)) == sizeof(own));
	handle = tcp_connect(LOOPBACK, own, "relay-in");
	wait_gate(ready);
	while (moved.sent < RELAYED) {
		size_t rest = RELAYED - moved.sent;

		count_sent(&moved, send(handle, block, rest < 10007 ? rest : 10007, 0));
		sleep_ms(1);
	}
	/* The last bytes leave the relay in a thread of the kernel, at a time of its own. */
	wait_gate(arrived);
	open_gate(leave);
	wait_success(middle);
	wait_success(sink);
	drain(handle, &moved);
	{
		struct ends ends = {.local = local_address(handle), .remote = address_of(LOOPBACK, own)};

		say_flow("relay-in", "tcp", &ends, &moved, "syscall", true);
	}
	close(handle);
	close(map);
}

/* ---- kTLS ---- */

static bool tls_on(int handle)
{
	return setsockopt(handle, IPPROTO_TCP, TCP_ULP, "tls", 4) == 0;
}

static void tls_keys(int handle, int way)
{
	struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = {.version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128}};

	memset(keys.key, 0x42, sizeof(keys.key));
	memset(keys.salt, 0x17, sizeof(keys.salt));
	CHECK(setsockopt(handle, SOL_TLS, way, &keys, sizeof(keys)));
}

static void tls(void)
{
	struct gate begin = new_gate();
	int listener, handle, file;
	struct moved moved = {0};
	struct ends ends;
	off_t from = 0;
	pid_t pid;

	listener = tcp_listener(LOOPBACK, 0, 5);
	pid = spawn();
	if (pid == 0) {
		int accepted = tcp_accept(listener, "tls");
		struct moved received = {0};

		ends = ends_of(accepted);
		if (tls_on(accepted)) {
			tls_keys(accepted, TLS_RX);
			open_gate(begin);
			drain(accepted, &received);
		} else {
			open_gate(begin);
			MUST(recv(accepted, block, 1, 0) == 0);
		}
		say_flow("tls", "tcp", &ends, &received, "syscall", false);
		close(accepted);
		_exit(0);
	}
	handle = tcp_connect(LOOPBACK, local_port(listener), "tls");
	ends = ends_of(handle);
	wait_gate(begin);
	if (!tls_on(handle)) {
		MUST(errno == ENOENT);
		missing("kTLS");
	} else {
		tls_keys(handle, TLS_TX);
		for (int number = 0; number < 7; number++)
			count_sent(&moved, send(handle, block, 5003, 0));
		file = CHECK(memfd_create("bytes", MFD_CLOEXEC));
		CHECK(ftruncate(file, 40009));
		while (from < 40009)
			count_sent(&moved, sendfile(handle, file, &from, 40009));
		close(file);
	}
	say_flow("tls", "tcp", &ends, &moved, moved.sent ? "syscall sendfile" : "", true);
	close(handle);
	wait_success(pid);
	close(listener);
}

int main(void)
{
	start_truth();
	own_netns();
	tunnel();
	relay();
	tls();
	return 0;
}
