/* Trap 8: a datagram socket without a peer. Where each datagram goes is in the arguments of the call, one by one or many
 * at a time; the socket itself knows nobody, or somebody else. */
#include "flows.h"

#define PEERS 3

struct place {
	struct address address;
	struct moved moved;
};

/* What the receivers expect, in memory that both processes share: the sender counts it. */
static struct shared {
	uint64_t datagrams[PEERS];
	bool done;
} *shared;

static struct place receivers[PEERS]; /* two over IPv4, one over IPv6 */
static int receiving[PEERS];

/* Sends `size` bytes to a receiver, by sendto or by sendmsg. */
static void send_one(int handle, int to, size_t size, bool by_message, struct moved *moved)
{
	static char zeros[8192];
	struct iovec parts[2] = {{zeros, size / 2}, {zeros, size - size / 2}};
	struct msghdr message = {.msg_name = &receivers[to].address.storage,
				 .msg_namelen = receivers[to].address.length,
				 .msg_iov = parts,
				 .msg_iovlen = 2};

	if (by_message)
		MUST(count_sent(moved, sendmsg(handle, &message, 0)) == (ssize_t)size);
	else
		send_to(handle, &receivers[to].address, size, moved);
	shared->datagrams[to]++;
}

/* One socket, two peers in turn: 12 datagrams, each of a size of its own. */
static void in_turn(const char *label, int handle, bool by_message)
{
	struct moved moved[2] = {0};
	struct address local;

	for (int number = 0; number < 12; number++)
		send_one(handle, number % 5 % 2, 31 + 17 * (size_t)number, by_message, &moved[number % 5 % 2]);
	local = local_address(handle);
	for (int to = 0; to < 2; to++)
		say_flow_of(label, "udp", &local, &receivers[to].address, &moved[to], "syscall", true);
	close(handle);
}

/* 11 datagrams to two peers by one call. */
static void many(void)
{
	static char zeros[4096];
	int handle = udp_bound(LOOPBACK, 0);
	struct mmsghdr messages[11] = {0};
	struct iovec parts[11];
	struct moved moved[2] = {0};
	struct address local = local_address(handle);

	for (int number = 0; number < 11; number++) {
		int to = number % 3 == 0;

		parts[number] = (struct iovec){zeros, 101 + 7 * (size_t)number};
		messages[number].msg_hdr = (struct msghdr){.msg_name = &receivers[to].address.storage,
							   .msg_namelen = receivers[to].address.length,
							   .msg_iov = &parts[number],
							   .msg_iovlen = 1};
	}
	MUST(CHECK(sendmmsg(handle, messages, 11, 0)) == 11);
	for (int number = 0; number < 11; number++) {
		int to = number % 3 == 0;

		MUST(messages[number].msg_len == parts[number].iov_len);
		count_sent(&moved[to], messages[number].msg_len);
		shared->datagrams[to]++;
	}
	for (int to = 0; to < 2; to++)
		say_flow_of("sendmmsg", "udp", &local, &receivers[to].address, &moved[to], "syscall", true);
	close(handle);
}

/* Connected to one peer, and two datagrams for another all the same. */
static void elsewhere(void)
{
	int handle = udp_bound(LOOPBACK, 0);
	struct moved moved[2] = {0};
	struct address local;

	CHECK(connect(handle, (struct sockaddr *)&receivers[0].address.storage, receivers[0].address.length));
	MUST(count_sent(&moved[0], send(handle, "five", 5, 0)) == 5);
	shared->datagrams[0]++;
	send_one(handle, 1, 1013, false, &moved[1]);
	MUST(count_sent(&moved[0], write(handle, "sixth", 6)) == 6);
	shared->datagrams[0]++;
	send_one(handle, 1, 1019, true, &moved[1]);
	local = local_address(handle);
	for (int to = 0; to < 2; to++)
		say_flow_of("elsewhere", "udp", &local, &receivers[to].address, &moved[to], "syscall", true);
	close(handle);
}

/* Datagrams with nothing in them are datagrams; those that are refused are none. */
static void nothing(void)
{
	int handle = udp_bound(LOOPBACK, 0);
	static char zeros[66000];
	struct moved moved = {0};
	struct address local = local_address(handle);

	for (int number = 0; number < 3; number++)
		send_one(handle, 0, 0, number == 1, &moved);
	MUST(sendto(handle, zeros, sizeof(zeros), 0, (struct sockaddr *)&receivers[0].address.storage,
		    receivers[0].address.length) == -1 &&
	     errno == EMSGSIZE);
	say_flow_of("empty", "udp", &local, &receivers[0].address, &moved, "syscall", true);
	close(handle);
}

static void one_peer(const char *label, int handle, int to, size_t size)
{
	struct moved moved = {0};
	struct address local;

	for (int number = 0; number < 5; number++)
		send_one(handle, to, size + (size_t)number, number % 2, &moved);
	local = local_address(handle);
	say_flow_of(label, "udp", &local, &receivers[to].address, &moved, "syscall", true);
	close(handle);
}

static void mapped(void)
{
	struct address there = receivers[0].address;
	char text[64];

	snprintf(text, sizeof(text), "::ffff:%s", LOOPBACK);
	receivers[0].address =
		address_of(text, ntohs(((struct sockaddr_in *)&receivers[0].address.storage)->sin_port));
	one_peer("mapped", udp_bound("::ffff:" LOOPBACK, 0), 0, 401);
	receivers[0].address = there;
}

static void sender(void)
{
	in_turn("sendto", udp_bound(LOOPBACK, 0), false);
	in_turn("sendmsg", udp_bound(LOOPBACK, 0), true);
	in_turn("unbound", CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)), false);
	many();
	elsewhere();
	nothing();
	one_peer("ipv6", udp_bound("::1", 0), 2, 601);
	mapped();
	shared->done = true;
	_exit(0);
}

/* Takes all datagrams of one socket by recvfrom, and tells what came from whom. */
static void take_all(int which)
{
	struct place from[32] = {0};
	int count = 0;
	char block[8192];

	for (uint64_t number = 0; number < shared->datagrams[which]; number++) {
		struct address peer = {.length = sizeof(peer.storage)};
		ssize_t got = recvfrom(receiving[which], block, sizeof(block), 0, (struct sockaddr *)&peer.storage,
				       &peer.length);
		int at = 0;

		while (at < count && memcmp(&from[at].address.storage, &peer.storage, peer.length) != 0)
			at++;
		MUST(at < 32);
		if (at == count)
			from[count++].address = peer;
		count_received(&from[at].moved, got);
	}
	for (int at = 0; at < count; at++)
		say_flow_of("received", "udp", &receivers[which].address, &from[at].address, &from[at].moved, "syscall",
			    false);
}

int main(void)
{
	int size = 1 << 20;
	pid_t pid;

	start_truth();
	own_netns();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(shared != MAP_FAILED);
	for (int which = 0; which < PEERS; which++) {
		receiving[which] = udp_bound(which < 2 ? LOOPBACK : "::1", 0);
		/* The receiver begins when the sender is done: all must fit. */
		CHECK(setsockopt(receiving[which], SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)));
		receivers[which].address = local_address(receiving[which]);
	}
	pid = spawn();
	if (pid == 0)
		sender();
	wait_success(pid);
	MUST(shared->done);
	for (int which = 0; which < PEERS; which++)
		take_all(which);
	return 0;
}
