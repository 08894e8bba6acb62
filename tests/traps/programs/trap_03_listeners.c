/* Trap 3: who listens is not who accepts. Cases: prefork (four workers accept on a listener they inherited), reuseport
 * (two processes listen on the same port) and activation (a listener handed through fork and exec to another program
 * image). */
#include "trap.h"

#define WORKERS 4
#define ROUNDS 5
#define GREETING 13

/* Accepts as often as asked, once each time the gate opens, so that every worker has its share. */
static void worker(int listener, struct gate turn, struct gate done, const char *label)
{
	for (int round = 0; round < ROUNDS; round++) {
		int handle;

		wait_gate(turn);
		handle = tcp_accept(listener, label);
		send_exactly(handle, GREETING);
		close(handle);
		open_gate(done);
	}
	_exit(0);
}

/* One connection, read to its end. */
static void visit(uint16_t port, const char *label)
{
	uint64_t before = boot_ns(), opened, closing;
	int handle = tcp_connect(LOOPBACK, port, label);
	uint16_t local = local_port(handle);

	opened = boot_ns();
	MUST(receive_all(handle) == GREETING);
	closing = boot_ns();
	close(handle);
	say_close(label, getpid(), local, port, 0, GREETING, "LAST_ACK", 0, closing - opened,
		  wait_gone(local, port) - before);
}

static void prefork(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 16);
	struct gate turns[WORKERS], done = new_gate();
	pid_t workers[WORKERS];

	for (int index = 0; index < WORKERS; index++) {
		turns[index] = new_gate();
		workers[index] = spawn();
		if (workers[index] == 0)
			worker(listener, turns[index], done, "prefork");
	}
	for (int round = 0; round < ROUNDS; round++)
		for (int index = 0; index < WORKERS; index++) {
			open_gate(turns[index]);
			visit(local_port(listener), "prefork");
			wait_gate(done);
		}
	for (int index = 0; index < WORKERS; index++) {
		wait_success(workers[index]);
		say("{\"what\":\"acceptor\",\"label\":\"prefork\",\"pid\":%d,\"count\":%d}", workers[index], ROUNDS);
	}
}

/* Each of the two listens by itself and accepts what the kernel gives it, until the other end of `stop` is closed. */
static void sharing_listener(uint16_t port, struct gate ready, int stop)
{
	int listener = tcp_socket(LOOPBACK, SOCK_CLOEXEC), yes = 1, count = 0;
	struct address address = address_of(LOOPBACK, port);

	CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)));
	CHECK(bind(listener, (struct sockaddr *)&address.storage, address.length));
	tcp_listen(listener, LOOPBACK, 32);
	open_gate(ready);
	for (;;) {
		struct pollfd handles[] = {{listener, POLLIN, 0}, {stop, POLLIN, 0}};
		int accepted;

		CHECK(poll(handles, 2, -1));
		if (!handles[0].revents)
			break;
		accepted = tcp_accept(listener, "reuseport");
		count++;
		send_exactly(accepted, GREETING);
		close(accepted);
	}
	say("{\"what\":\"acceptor\",\"label\":\"reuseport\",\"pid\":%d,\"count\":%d}", getpid(), count);
	_exit(0);
}

static void reuseport(void)
{
	/* Bound without listening and never connected to: it keeps the port for the two. */
	int holder = tcp_socket(LOOPBACK, SOCK_CLOEXEC), yes = 1;
	struct address address = address_of(LOOPBACK, 0);
	struct gate ready = new_gate();
	int stop[2];
	pid_t pids[2];
	uint16_t port;

	CHECK(setsockopt(holder, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)));
	CHECK(bind(holder, (struct sockaddr *)&address.storage, address.length));
	port = local_port(holder);
	CHECK(pipe(stop));
	for (int index = 0; index < 2; index++) {
		pids[index] = spawn();
		if (pids[index] == 0) {
			close(holder);
			close(stop[1]);
			sharing_listener(port, ready, stop[0]);
		}
	}
	close(stop[0]);
	wait_gate(ready);
	wait_gate(ready);
	for (int round = 0; round < 23; round++)
		visit(port, "reuseport");
	close(stop[1]);
	wait_success(pids[0]);
	wait_success(pids[1]);
	close(holder);
}

/* The service that is started with its listener as descriptor 3. */
static void service(char **arguments)
{
	say_exec("activation", arguments);
	for (int round = 0; round < ROUNDS; round++) {
		int handle = tcp_accept(3, "activation");

		send_exactly(handle, GREETING);
		close(handle);
	}
	say("{\"what\":\"acceptor\",\"label\":\"activation\",\"pid\":%d,\"count\":%d}", getpid(), ROUNDS);
}

static void activation(void)
{
	int listener = tcp_listener(LOOPBACK, 0, 16);
	char image[4200];
	pid_t pid;

	/* A copy, so that the service has a path of its own. */
	snprintf(image, sizeof(image), "%s/service", scratch());
	copy_file(own_path(), image, 0755);
	pid = spawn();
	if (pid == 0) {
		char *arguments[] = {"activated", "service", NULL};

		CHECK(setenv(CASE_VARIABLE, "activation", 1));
		CHECK(dup2(listener, 3) == 3 ? 0 : -1);
		CHECK(fcntl(3, F_SETFD, 0));
		execv(image, arguments);
		die("execv", __LINE__);
	}
	for (int round = 0; round < ROUNDS; round++)
		visit(local_port(listener), "activation");
	wait_success(pid);
	unlink(image);
	*strrchr(image, '/') = '\0';
	rmdir(image);
}

int main(int count, char **arguments)
{
	if (getenv(CASE_VARIABLE) != NULL) {
		limit_life(LIFETIME_S);
		service(arguments);
		return 0;
	}
	(void)count;
	start_truth();
	own_netns(); /* where the tables of sockets are short, whatever the machine does */
	prefork();
	reuseport();
	activation();
	return 0;
}
