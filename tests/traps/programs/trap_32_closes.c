/* Trap 32: close() is not the end of a connection. Shutdown, half-close, resets from either side, and TIME_WAIT with
 * the same four numbers used again: for each the state the kernel left, the bytes both ways and the bounds of the life,
 * and one end for each side. */
#include "trap.h"

#define REQUEST 1009
#define REPLY 20011

struct pair {
	int listener, client, server;
	uint16_t local, port;
	uint64_t before, opened, established; /* the last of the accepting end */
};

/* A connection of this process with itself, so that the order of all that follows is certain. */
static struct pair new_pair(const char *label, uint16_t port, uint16_t local)
{
	struct pair pair;
	struct address own = address_of(LOOPBACK, local), there;
	int yes = 1;

	pair.listener = tcp_listener(LOOPBACK, port, 5);
	pair.port = local_port(pair.listener);
	there = address_of(LOOPBACK, pair.port);
	pair.client = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
	CHECK(setsockopt(pair.client, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
	if (local != 0)
		CHECK(bind(pair.client, (struct sockaddr *)&own.storage, own.length));
	pair.before = boot_ns();
	CHECK(connect(pair.client, (struct sockaddr *)&there.storage, there.length));
	pair.opened = boot_ns();
	pair.local = local_port(pair.client);
	say_socket("connect", pair.client,
		   "\"label\":\"%s\",\"errno\":0,\"before_ns\":%" PRIu64 ",\"after_ns\":%" PRIu64, label, pair.before,
		   pair.opened);
	pair.established = wait_established(pair.port, pair.local);
	pair.server = tcp_accept(pair.listener, label);
	return pair;
}

static void request(struct pair pair)
{
	send_exactly(pair.client, REQUEST);
	MUST(receive_up_to(pair.server, REQUEST) == REQUEST);
}

static void reply(struct pair pair)
{
	send_exactly(pair.server, REPLY);
	MUST(receive_up_to(pair.client, REPLY) == REPLY);
}

/* Both ends of a connection that has ended: what the client's and the server's records must hold. */
static void tell(const char *label, struct pair pair, size_t sent, size_t received, const char *client_state,
		 int client_errno, const char *server_state, int server_errno, uint64_t ending)
{
	uint64_t life = wait_gone(pair.local, pair.port) - pair.before;

	say_close(label, getpid(), pair.local, pair.port, sent, received, client_state, client_errno, ending - pair.opened, life);
	say_close(label, getpid(), pair.port, pair.local, received, sent, server_state, server_errno, ending - pair.established,
		  life);
	close(pair.listener);
}

static void client_first(void)
{
	struct pair pair = new_pair("client-first", 0, 0);
	uint64_t ending;

	request(pair);
	reply(pair);
	ending = boot_ns();
	close(pair.client);
	MUST(receive_all(pair.server) == 0);
	close(pair.server);
	tell("client-first", pair, REQUEST, REPLY, "FIN_WAIT2", 0, "LAST_ACK", 0, ending);
}

static void server_first(void)
{
	struct pair pair = new_pair("server-first", 0, 0);
	uint64_t ending;

	request(pair);
	reply(pair);
	ending = boot_ns();
	close(pair.server);
	MUST(receive_all(pair.client) == 0);
	close(pair.client);
	tell("server-first", pair, REQUEST, REPLY, "LAST_ACK", 0, "FIN_WAIT2", 0, ending);
}

/* shutdown() of both ways ends the connection long before the descriptors are closed: the records must not wait for
 * that, nor come twice. */
static void shut_down(void)
{
	struct pair pair = new_pair("shutdown", 0, 0);
	uint64_t ending, life;

	request(pair);
	ending = boot_ns();
	CHECK(shutdown(pair.client, SHUT_RDWR));
	MUST(receive_all(pair.server) == 0);
	CHECK(shutdown(pair.server, SHUT_RDWR));
	life = wait_gone(pair.local, pair.port) - pair.before;
	say_close("shutdown", getpid(), pair.local, pair.port, REQUEST, 0, "FIN_WAIT2", 0, ending - pair.opened, life);
	say_close("shutdown", getpid(), pair.port, pair.local, 0, REQUEST, "LAST_ACK", 0, ending - pair.established, life);
	sleep_ms(200);
	close(pair.client);
	close(pair.server);
	close(pair.listener);
}

/* The client says it is done, and the server goes on sending for a while. */
static void half_close(void)
{
	struct pair pair = new_pair("half-close", 0, 0);
	uint64_t ending;

	request(pair);
	CHECK(shutdown(pair.client, SHUT_WR));
	MUST(receive_all(pair.server) == 0);
	sleep_ms(150);
	reply(pair);
	reply(pair);
	ending = boot_ns();
	close(pair.server);
	MUST(receive_all(pair.client) == 0);
	close(pair.client);
	tell("half-close", pair, REQUEST, 2 * REPLY, "FIN_WAIT2", 0, "LAST_ACK", 0, ending);
}

/* SO_LINGER with no time: closing is a reset. */
static void linger(void)
{
	struct pair pair = new_pair("linger", 0, 0);
	struct linger now = {1, 0};
	uint64_t ending;

	request(pair);
	reply(pair);
	CHECK(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	ending = boot_ns();
	close(pair.client);
	MUST(recv(pair.server, &now, sizeof(now), 0) == -1 && errno == ECONNRESET);
	tell("linger", pair, REQUEST, REPLY, "ESTABLISHED", 0, "ESTABLISHED", ECONNRESET, ending);
	close(pair.server);
}

/* The server closes with bytes unread: the kernel resets by itself. */
static void peer_reset(void)
{
	struct pair pair = new_pair("peer-reset", 0, 0);
	uint64_t ending, life;
	char byte;

	request(pair);
	reply(pair);
	send_exactly(pair.client, REQUEST);
	ending = boot_ns();
	close(pair.server);
	MUST(recv(pair.client, &byte, 1, 0) == -1 && errno == ECONNRESET);
	life = wait_gone(pair.local, pair.port) - pair.before;
	say_close("peer-reset", getpid(), pair.local, pair.port, 2 * REQUEST, REPLY, "ESTABLISHED", ECONNRESET,
		  ending - pair.opened, life);
	say_close_unread("peer-reset", getpid(), pair.port, pair.local, REPLY, 2 * REQUEST, REQUEST, "ESTABLISHED", 0,
			 ending - pair.established, life);
	close(pair.listener);
	close(pair.client);
}

/* A reset that meets an end which already said it was done: CLOSE_WAIT there, EPIPE is what the kernel keeps. */
static void reset_after_fin(void)
{
	struct pair pair = new_pair("reset-after-fin", 0, 0);
	struct linger now = {1, 0};
	uint64_t ending;

	request(pair);
	CHECK(shutdown(pair.client, SHUT_WR));
	MUST(receive_all(pair.server) == 0);
	/* The acknowledgement of the FIN may be delayed. */
	for (int turn = 0; state_of(pair.local, pair.port, false) != 5 && turn < 500; turn++)
		sleep_ms(2);
	MUST(state_of(pair.local, pair.port, false) == 5);
	CHECK(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	ending = boot_ns();
	close(pair.client);
	tell("reset-after-fin", pair, REQUEST, 0, "FIN_WAIT2", 0, "CLOSE_WAIT", EPIPE, ending);
	close(pair.server);
}

/* The four numbers rest in TIME_WAIT and are used again at once: another connection, with bytes and a life of its own.
 */
static void time_wait(void)
{
	struct pair pair = new_pair("time-wait", 0, 0);
	uint16_t port = pair.port, local = pair.local;
	uint64_t ending;

	request(pair);
	ending = boot_ns();
	close(pair.client);
	MUST(receive_all(pair.server) == 0);
	close(pair.server);
	tell("time-wait", pair, REQUEST, 0, "FIN_WAIT2", 0, "LAST_ACK", 0, ending);
	MUST(state_of(local, port, true) == 6);
	sleep_ms(1200); /* timestamps must have moved on before TIME_WAIT may be cut short */
	pair = new_pair("time-wait-again", port, local);
	request(pair);
	reply(pair);
	ending = boot_ns();
	close(pair.client);
	MUST(receive_all(pair.server) == 0);
	close(pair.server);
	tell("time-wait-again", pair, REQUEST, REPLY, "FIN_WAIT2", 0, "LAST_ACK", 0, ending);
}

/* A descriptor that was copied closes nothing until the last copy goes. */
static void copied(void)
{
	struct pair pair = new_pair("copied", 0, 0);
	int copy = CHECK(dup(pair.client));
	uint64_t ending;

	request(pair);
	close(pair.client);
	sleep_ms(150);
	MUST(state_of(pair.local, pair.port, false) == 1);
	ending = boot_ns();
	close(copy);
	MUST(receive_all(pair.server) == 0);
	close(pair.server);
	tell("copied", pair, REQUEST, 0, "FIN_WAIT2", 0, "LAST_ACK", 0, ending);
}

int main(void)
{
	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	client_first();
	server_first();
	shut_down();
	half_close();
	linger();
	peer_reset();
	reset_after_fin();
	time_wait();
	copied();
	return 0;
}
