/* Trap 31: processes that end without closing their connections. The end closes them: with nothing left to say, with
 * bytes that were never read (a reset), with bytes that the other side has yet to take (the connection outlives the
 * process), and on the accepting side. */
#include "trap.h"

#define PAYLOAD 1009
#define QUEUED (256 * 1024)

static void leave(const char *label, pid_t pid, int status)
{
	say("{\"what\":\"ended\",\"label\":\"%s\",\"pid\":%d,\"status\":%d,\"gone_ns\":%" PRIu64 "}", label, pid,
	    status, boot_ns());
}

/* The child connects and sends, the parent accepts. */
static void quiet(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), accepted;
	uint16_t port = local_port(listener), peer;
	uint64_t begun = boot_ns(), life;
	pid_t pid = spawn();

	if (pid == 0) {
		int handle = tcp_connect(LOOPBACK, port, "quiet");

		send_exactly(handle, PAYLOAD);
		_exit(31);
	}
	accepted = tcp_accept(listener, "quiet");
	peer = remote_port(accepted);
	leave("quiet", pid, wait_for(pid));
	MUST(receive_all(accepted) == PAYLOAD);
	close(accepted);
	life = wait_gone(peer, port) - begun;
	say_close("quiet", pid, peer, port, PAYLOAD, 0, "FIN_WAIT2", 0, 0, life);
	say_close("quiet", getpid(), port, peer, 0, PAYLOAD, "LAST_ACK", 0, 0, life);
	close(listener);
}

/* The child has bytes it never read: its end is a reset. */
static void unread(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), accepted, error = 0;
	uint16_t port = local_port(listener), peer;
	struct gate sent = new_gate();
	socklen_t length = sizeof(error);
	uint64_t begun = boot_ns(), life;
	pid_t pid = spawn();

	if (pid == 0) {
		(void)tcp_connect(LOOPBACK, port, "unread");
		wait_gate(sent);
		_exit(32);
	}
	accepted = tcp_accept(listener, "unread");
	peer = remote_port(accepted);
	send_exactly(accepted, PAYLOAD);
	open_gate(sent);
	leave("unread", pid, wait_for(pid));
	life = wait_gone(peer, port) - begun;
	CHECK(getsockopt(accepted, SOL_SOCKET, SO_ERROR, &error, &length));
	MUST(error == ECONNRESET);
	/* The bytes arrived, though nobody took them. */
	say_close_unread("unread", pid, peer, port, 0, PAYLOAD, 0, "ESTABLISHED", 0, 0, life);
	say_close("unread", getpid(), port, peer, PAYLOAD, 0, "ESTABLISHED", ECONNRESET, 0, life);
	close(accepted);
	close(listener);
}

/* The window is shut while the child still has bytes to send: they are delivered after its death. */
static void unsent(void)
{
	int listener = tcp_bound(LOOPBACK, 0), accepted, small = 4096;
	uint16_t port = local_port(listener), peer;
	struct gate told = new_gate();
	uint64_t begun, reaped, life;
	size_t queued = 0;
	pid_t pid;

	CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
	tcp_listen(listener, LOOPBACK, 5);
	begun = boot_ns();
	pid = spawn();
	if (pid == 0) {
		static char block[QUEUED];
		int handle = tcp_connect(LOOPBACK, port, "unsent"), big = QUEUED;
		ssize_t taken;
		size_t total = 0;

		CHECK(setsockopt(handle, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big)));
		CHECK(fcntl(handle, F_SETFL, O_NONBLOCK));
		while (total < QUEUED && (taken = send(handle, block, QUEUED - total, MSG_NOSIGNAL)) > 0)
			total += (size_t)taken;
		MUST(write(told.ends[1], &total, sizeof(total)) == sizeof(total));
		_exit(33);
	}
	accepted = tcp_accept(listener, "unsent");
	peer = remote_port(accepted);
	MUST(read(told.ends[0], &queued, sizeof(queued)) == sizeof(queued));
	leave("unsent", pid, wait_for(pid));
	sleep_ms(300);
	reaped = boot_ns();
	MUST(state_of(peer, port, false) == 4); /* FIN_WAIT1: orphaned and not done */
	MUST(receive_all(accepted) == queued);
	close(accepted);
	life = wait_gone(peer, port) - begun;
	say("{\"what\":\"outlived\",\"label\":\"unsent\",\"pid\":%d,\"local_port\":%u,\"reaped_ns\":%" PRIu64 "}", pid,
	    peer, reaped);
	say_close("unsent", pid, peer, port, queued, 0, "FIN_WAIT2", 0, 300000000, life);
	say_close("unsent", getpid(), port, peer, 0, queued, "LAST_ACK", 0, 300000000, life);
	close(listener);
}

/* The child accepts and ends; the parent connects. */
static void acceptor(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 5), handle;
	uint16_t port = local_port(listener), local;
	uint64_t begun, life;
	pid_t pid = spawn();

	if (pid == 0) {
		int accepted = tcp_accept(listener, "acceptor");

		send_exactly(accepted, PAYLOAD);
		CHECK(kill(getpid(), SIGKILL)); /* nothing of its own runs after this */
	}
	begun = boot_ns();
	handle = tcp_connect(LOOPBACK, port, "acceptor");
	local = local_port(handle);
	MUST(receive_all(handle) == PAYLOAD);
	leave("acceptor", pid, wait_for(pid));
	close(handle);
	life = wait_gone(local, port) - begun;
	say_close("acceptor", pid, port, local, PAYLOAD, 0, "FIN_WAIT2", 0, 0, life);
	say_close("acceptor", getpid(), local, port, 0, PAYLOAD, "LAST_ACK", 0, 0, life);
	close(listener);
}

/* Several at once, to one listener: each is closed once. */
static void many(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 32), accepted[23];
	uint16_t port = local_port(listener), peers[23];
	uint64_t begun = boot_ns(), life;
	pid_t pid = spawn();

	if (pid == 0) {
		for (int index = 0; index < 23; index++)
			send_exactly(tcp_connect(LOOPBACK, port, "many"), (size_t)index);
		_exit(34);
	}
	for (int index = 0; index < 23; index++) {
		accepted[index] = tcp_accept(listener, "many");
		peers[index] = remote_port(accepted[index]);
	}
	leave("many", pid, wait_for(pid));
	for (int index = 0; index < 23; index++) {
		MUST(receive_all(accepted[index]) == (size_t)index);
		close(accepted[index]);
	}
	for (int index = 0; index < 23; index++) {
		life = wait_gone(peers[index], port) - begun;
		say_close("many", pid, peers[index], port, (size_t)index, 0, "FIN_WAIT2", 0, 0, life);
		say_close("many", getpid(), port, peers[index], 0, (size_t)index, "LAST_ACK", 0, 0, life);
	}
	close(listener);
}

int main(void)
{
	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	quiet();
	unread();
	unsent();
	acceptor();
	many();
	return 0;
}
