/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loads that tracing is measured under. Each prints one JSON line with its pid, how often it did what it does, and
 * how long that took in nanoseconds of CLOCK_MONOTONIC, its own start and preparation left out.
 *
 *   workloads spawn COUNT PROGRAM   fork, execute PROGRAM and wait, COUNT times
 *   workloads connect COUNT         connect, accept and close over loopback, COUNT times, in one thread
 *   workloads reset COUNT           the same, but each connection ends with a reset, which is the least work there is
 *   workloads serve COUNT           as reset, with a thread that connects and one that accepts and closes
 *   workloads stream MEBIBYTES      as much through one loopback connection, with a thread at each end
 *   workloads datagrams COUNT       as many of 32 bytes over loopback UDP, each sent and received in one thread
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 << 10)

static void die(const char *what)
{
	fprintf(stderr, "workloads: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void spawn(long count, char *program)
{
	char *arguments[] = { program, NULL }, *environment[] = { NULL };

	for (long done = 0; done < count; done++) {
		int status;
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (child == 0) {
			execve(program, arguments, environment);
			_exit(127);
		}
		if (waitpid(child, &status, 0) != child || status != 0)
			die(program);
	}
}

static int listening(struct sockaddr_in *address)
{
	socklen_t size = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY) };
	if (fd < 0 || bind(fd, (void *)address, sizeof(*address)) || listen(fd, 8) ||
	    getsockname(fd, (void *)address, &size))
		die("listen");
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return fd;
}

static int connected(const struct sockaddr_in *address, int l_onoff)
{
	struct linger linger = { .l_onoff = l_onoff };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)))
		die("socket");
	/* The other side may have accepted and reset it before connect(2) returns: it was connected all the same. */
	if (connect(fd, (const void *)address, sizeof(*address)) && errno != ECONNRESET)
		die("connect");
	return fd;
}

static void connections(int listener, const struct sockaddr_in *listening_at, long count, int reset)
{
	struct sockaddr_in address = *listening_at;

	for (long done = 0; done < count; done++) {
		/* To 61 addresses in turn, so that ports in TIME_WAIT never make it long to find a free one. */
		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + done % 61);
		int client = connected(&address, reset);
		int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (server < 0)
			die("accept");
		close(client);
		close(server);
	}
}

struct serving {
	int listener;
	long count;
};

static void *serve_all(void *argument)
{
	struct serving *serving = argument;

	for (long done = 0; done < serving->count; done++) {
		/* It has the listener's way of closing: with a reset. */
		int fd = accept4(serving->listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			die("accept");
		close(fd);
	}
	return NULL;
}

static void serve(int listener, const struct sockaddr_in *address, long count)
{
	struct serving serving = { listener, count };
	struct linger reset = { .l_onoff = 1 };
	pthread_t thread;

	if (setsockopt(listener, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) ||
	    pthread_create(&thread, NULL, serve_all, &serving))
		die("thread");
	for (long done = 0; done < count; done++) {
		int fd = connected(address, 1);
		char byte;

		/* Until the other side has closed: the queue of the listener never fills. */
		if (recv(fd, &byte, 1, 0) > 0)
			die("recv");
		close(fd);
	}
	pthread_join(thread, NULL);
}

struct sending {
	struct sockaddr_in address;
	long long bytes;
};

static void *send_all(void *argument)
{
	struct sending *sending = argument;
	static char data[CHUNK];
	int fd = connected(&sending->address, 1);
	struct linger polite = { 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &polite, sizeof(polite));
	for (long long left = sending->bytes; left > 0;) {
		ssize_t sent = send(fd, data, left < CHUNK ? left : CHUNK, 0);

		if (sent <= 0)
			die("send");
		left -= sent;
	}
	close(fd);
	return NULL;
}

static void stream(int listener, const struct sockaddr_in *address, long long bytes)
{
	static char data[CHUNK];
	struct sending sending = { *address, bytes };
	pthread_t thread;
	int fd;

	if (pthread_create(&thread, NULL, send_all, &sending))
		die("thread");
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		die("accept");
	while (bytes > 0) {
		ssize_t got = recv(fd, data, CHUNK, 0);

		if (got <= 0)
			die("recv");
		bytes -= got;
	}
	pthread_join(thread, NULL);
	close(fd);
}

static void datagrams(long count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, peer;
	int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(address);
	char data[32] = { 0 };

	if (from < 0 || to < 0 || bind(to, (void *)&address, size) || getsockname(to, (void *)&address, &size))
		die("socket");
	for (long done = 0; done < count; done++) {
		if (sendto(from, data, sizeof(data), 0, (void *)&address, sizeof(address)) != sizeof(data))
			die("sendto");
		size = sizeof(peer);
		if (recvfrom(to, data, sizeof(data), 0, (void *)&peer, &size) != sizeof(data))
			die("recvfrom");
	}
	close(from);
	close(to);
}

int main(int argc, char **argv)
{
	long count = argc > 2 ? atol(argv[2]) : 0;
	struct sockaddr_in address;
	long long begin;

	if (argc == 4 && count > 0 && !strcmp(argv[1], "spawn")) {
		begin = now();
		spawn(count, argv[3]);
	} else if (argc == 3 && count > 0 && (!strcmp(argv[1], "connect") || !strcmp(argv[1], "reset"))) {
		int listener = listening(&address);

		begin = now();
		connections(listener, &address, count, argv[1][0] == 'r');
	} else if (argc == 3 && count > 0 && !strcmp(argv[1], "serve")) {
		int listener = listening(&address);

		begin = now();
		serve(listener, &address, count);
	} else if (argc == 3 && count > 0 && !strcmp(argv[1], "stream")) {
		int listener = listening(&address);

		begin = now();
		stream(listener, &address, (long long)count << 20);
	} else if (argc == 3 && count > 0 && !strcmp(argv[1], "datagrams")) {
		begin = now();
		datagrams(count);
	} else {
		fprintf(stderr, "usage: workloads spawn COUNT PROGRAM | connect COUNT | serve COUNT | stream MEBIBYTES"
				" | datagrams COUNT\n");
		return 2;
	}
	printf("{\"pid\": %d, \"count\": %ld, \"ns\": %lld}\n", getpid(), count, now() - begin);
	return 0;
}
