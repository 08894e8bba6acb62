/* Trap 17: sockets that never leave the machine and carry no address of a network: Unix sockets of three kinds, and
 * netlink. They share the functions that send and receive with all others. One UDP flow runs among them. It begins when
 * a line comes on standard input. */
#include "flows.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/un.h>

#define ROUNDS 2003

static char block[16384];

static void pair(int kind)
{
	int ends[2];

	CHECK(socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0, ends));
	for (int number = 0; number < ROUNDS; number++) {
		MUST(CHECK(send(ends[0], block, 101, 0)) == 101);
		MUST(CHECK(recv(ends[1], block, sizeof(block), 0)) == 101);
	}
	close(ends[0]);
	close(ends[1]);
}

/* By an abstract name, connected, accepted and refused. */
static void named(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int listener = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), handle, accepted;
	socklen_t length;

	length = (socklen_t)(sizeof(sa_family_t) + 1 +
			     (size_t)snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "trap-17-%d", getpid()));
	CHECK(bind(listener, (struct sockaddr *)&name, length));
	CHECK(listen(listener, 5));
	for (int number = 0; number < 101; number++) {
		handle = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
		CHECK(connect(handle, (struct sockaddr *)&name, length));
		accepted = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		MUST(CHECK(write(handle, block, 1009)) == 1009);
		MUST(CHECK(read(accepted, block, sizeof(block))) == 1009);
		close(handle);
		close(accepted);
	}
	close(listener);
	handle = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(connect(handle, (struct sockaddr *)&name, length) == -1 && errno == ECONNREFUSED);
	close(handle);
}

/* All interfaces, again and again. */
static void netlink(void)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg link;
	} request = {.header = {.nlmsg_len = sizeof(request),
				.nlmsg_type = RTM_GETLINK,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
	int handle = CHECK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));

	for (int number = 0; number < ROUNDS; number++) {
		struct nlmsghdr *answer = (struct nlmsghdr *)block;

		MUST(CHECK(send(handle, &request, sizeof(request), 0)) == sizeof(request));
		do
			CHECK(recv(handle, block, sizeof(block), 0));
		while (answer->nlmsg_type != NLMSG_DONE);
	}
	close(handle);
}

int main(void)
{
	int from, to;
	struct moved sent = {0}, received = {0};
	struct ends near, far;

	start_truth();
	own_netns();
	say("{\"what\":\"ready\",\"netns\":%" PRIu64 "}", namespace_inode("net"));
	wait_go();
	pair(SOCK_STREAM);
	pair(SOCK_DGRAM);
	pair(SOCK_SEQPACKET);
	named();
	netlink();
	from = udp_bound(LOOPBACK, 0);
	to = udp_bound(LOOPBACK, 0);
	connect_to(from, LOOPBACK, local_port(to));
	near = ends_of(from);
	far = (struct ends){near.remote, near.local};
	count_sent(&sent, send(from, block, 1013, 0));
	take_datagram(to, &received);
	say_flow("among", "udp", &near, &sent, "syscall", true);
	say_flow("among", "udp", &far, &received, "syscall", false);
	say("{\"what\":\"local\",\"pid\":%d,\"sends\":%d}", getpid(), 4 * ROUNDS + 101);
	return 0;
}
