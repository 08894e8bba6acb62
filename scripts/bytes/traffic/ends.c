// SPDX-License-Identifier: Apache-2.0
/* Processes in their places, and the two ends of a connection. */
#include "traffic.h"

#define CHILDREN 32
#define NOT_HERE 77 /* the status of a process whose kernel lacks something; it has said what */
#define WAIT_S 20

static int places[PLACES] = {-1, -1, -1};
static pid_t children[CHILDREN];
static unsigned begun;

void find_places(const char *near, const char *far)
{
	const char *const paths[PLACES] = {"/proc/self/ns/net", near, far};

	for (int place = 0; place < PLACES; place++)
		places[place] = CHECK(open(paths[place], O_RDONLY | O_CLOEXEC));
}

void enter(enum place place)
{
	CHECK(setns(places[place], CLONE_NEWNET));
}

pid_t begin(enum place place, void (*work)(void))
{
	pid_t pid = spawn();

	if (pid == 0) {
		begun = 0;
		enter(place);
		work();
		say_flows();
		_exit(0);
	}
	MUST(begun < CHILDREN);
	children[begun++] = pid;
	return pid;
}

void not_here(const char *what)
{
	missing(what);
	_exit(NOT_HERE);
}

static void give_up(int status)
{
	for (unsigned at = 0; at < begun; at++)
		kill(children[at], SIGKILL);
	while (wait(NULL) > 0)
		;
	_exit(status);
}

/* The first that ends badly ends the row, and the others with it. */
void finish(void)
{
	while (begun > 0) {
		int status, at = 0;
		pid_t pid = CHECK(wait(&status));

		while (at < (int)begun && children[at] != pid)
			at++;
		MUST(at < (int)begun);
		children[at] = children[--begun];
		if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_HERE)
			give_up(NOT_HERE);
		if (status != 0) {
			dprintf(STDERR_FILENO, "process %d ended with status %#x\n", pid, (unsigned)status);
			give_up(2);
		}
	}
}

struct message new_message(void)
{
	struct message message;

	CHECK(pipe2(message.ends, O_CLOEXEC));
	return message;
}

void tell(struct message message, uint64_t number)
{
	MUST(write(message.ends[1], &number, sizeof(number)) == sizeof(number));
}

uint64_t hear(struct message message)
{
	uint64_t number;

	MUST(read(message.ends[0], &number, sizeof(number)) == sizeof(number));
	return number;
}

void limit_waits(int handle)
{
	struct timeval limit = {.tv_sec = WAIT_S};

	CHECK(setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	CHECK(setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)));
}

int any_socket(const struct address *address, int type, int protocol)
{
	int handle = socket(address->storage.ss_family, type | SOCK_CLOEXEC, protocol);

	if (handle < 0)
		not_here("socket");
	limit_waits(handle);
	return handle;
}

void bind_to(int handle, const struct address *address)
{
	CHECK(bind(handle, (const struct sockaddr *)&address->storage, address->length));
}

void connect_to(int handle, const struct address *address)
{
	CHECK(connect(handle, (const struct sockaddr *)&address->storage, address->length));
}

struct address name_of(int handle)
{
	struct address name = {.length = sizeof(name.storage)};

	CHECK(getsockname(handle, (struct sockaddr *)&name.storage, &name.length));
	return name;
}

uint32_t link_index(const char *name)
{
	uint32_t index = if_nametoindex(name);

	MUST(index != 0);
	return index;
}

/* ---- pairs ---- */

static struct pair pair;
static struct duo duo;
static struct message port;

static void pair_server(void)
{
	struct address address = address_of(pair.ip, 0);
	int listener = any_socket(&address, pair.type, pair.protocol), handle, yes = 1;

	CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)));
	bind_to(listener, &address);
	if (pair.prepare != NULL)
		pair.prepare(listener);
	CHECK(listen(listener, 7));
	tell(port, local_port(listener));
	handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
	limit_waits(handle);
	pair.server(handle, flow_of(handle, pair.transport, pair.via));
	close(handle);
}

static void pair_client(void)
{
	struct address to = address_of(pair.ip, (uint16_t)hear(port));
	int handle;

	if (pair.connect != NULL) {
		handle = pair.connect(&to);
	} else {
		handle = any_socket(&to, pair.type, pair.protocol);
		connect_to(handle, &to);
	}
	pair.client(handle, flow_of(handle, pair.transport, pair.via));
	close(handle);
}

void run_pair(const struct pair *wanted)
{
	pair = *wanted;
	if (pair.type == 0)
		pair.type = SOCK_STREAM;
	if (pair.protocol == 0)
		pair.protocol = IPPROTO_TCP;
	if (pair.transport == NULL)
		pair.transport = "tcp";
	if (pair.via == NULL)
		pair.via = SYSCALL;
	port = new_message();
	begin(pair.server_place, pair_server);
	begin(pair.client_place, pair_client);
	finish();
}

static void duo_server(void)
{
	struct address address = address_of(duo.ip, 0);
	int handle = any_socket(&address, SOCK_DGRAM, duo.protocol);

	bind_to(handle, &address);
	tell(port, local_port(handle));
	duo.server(handle);
	close(handle);
}

static void duo_client(void)
{
	struct address to = address_of(duo.ip, (uint16_t)hear(port));
	int handle = any_socket(&to, SOCK_DGRAM, duo.protocol);

	duo.client(handle, &to);
	close(handle);
}

void run_duo(const struct duo *wanted)
{
	duo = *wanted;
	if (duo.protocol == 0)
		duo.protocol = IPPROTO_UDP;
	port = new_message();
	begin(duo.server_place, duo_server);
	begin(duo.client_place, duo_client);
	finish();
}
