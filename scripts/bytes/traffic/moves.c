// SPDX-License-Identifier: Apache-2.0
/* What most rows move their bytes with. */
#include "traffic.h"

#include <pthread.h>

struct job {
	int handle;
	struct flow *flow;
	size_t count;
};

char *payload(void)
{
	static char bytes[CHUNK];

	if (bytes[1] == 0)
		for (unsigned at = 0; at < sizeof(bytes); at++)
			bytes[at] = (char)(at * 31 + 7);
	return bytes;
}

char *room(void)
{
	static __thread char bytes[CHUNK + 4096];

	return bytes;
}

void push(int handle, struct flow *flow, size_t count)
{
	while (count > 0) {
		size_t portion = count < CHUNK ? count : CHUNK;

		count -= (size_t)CHECK(sent(flow, send(handle, payload(), portion, MSG_NOSIGNAL)));
	}
}

void pull(int handle, struct flow *flow, size_t count)
{
	while (count > 0) {
		size_t portion = count < CHUNK ? count : CHUNK;
		ssize_t got = CHECK(received(flow, recv(handle, room(), portion, 0)));

		if (got == 0)
			break;
		count -= (size_t)got;
	}
}

void pull_all(int handle, struct flow *flow)
{
	pull(handle, flow, SIZE_MAX);
}

static void *push_job(void *argument)
{
	struct job *job = argument;

	push(job->handle, job->flow, job->count);
	half_close(job->handle);
	return NULL;
}

void push_and_pull(int handle, struct flow *flow, size_t out, size_t in)
{
	struct job job = {handle, flow, out};
	pthread_t thread;

	MUST(pthread_create(&thread, NULL, push_job, &job) == 0);
	pull(handle, flow, in);
	MUST(pthread_join(thread, NULL) == 0);
}

void half_close(int handle)
{
	CHECK(shutdown(handle, SHUT_WR));
}

unsigned prime_from(unsigned number)
{
	for (;; number++) {
		unsigned by = 2;

		while (by * by <= number && number % by != 0)
			by++;
		if (number > 1 && by * by > number)
			return number;
	}
}
