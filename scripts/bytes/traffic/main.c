// SPDX-License-Identifier: Apache-2.0
/*
 * main.c - traffic of a known size: every process counts the results of its own calls.
 *
 *	traffic list
 *	traffic ROW NEAR FAR
 *
 * `list` prints a line of JSON for each row. The other form runs one: NEAR and FAR are files of two network namespaces
 * (as /proc/PID/ns/net) that a veth pair joins, near0 with NEAR_IP and NEAR_IP6 and far0 with FAR_IP and FAR_IP6. It
 * prints a "flow" line for every flow of every process that moved bytes, or a "missing" line with the errno where the
 * kernel lacks what the row is about, and ends with 0, 77 (missing) or another status (the row went wrong).
 */
#include "traffic.h"

static const struct row *const groups[] = {
	stream_rows, path_rows, datagram_rows, message_rows, raw_rows, owner_rows, uring_rows, other_rows,
};

static void each(void (*act)(const struct row *row))
{
	for (unsigned group = 0; group < sizeof(groups) / sizeof(*groups); group++)
		for (const struct row *row = groups[group]; row->name != NULL; row++)
			act(row);
}

static void print(const struct row *row)
{
	say("{\"row\":\"%s\",\"about\":\"%s\"}", row->name, row->about);
}

static const char *wanted;

static void run(const struct row *row)
{
	if (strcmp(row->name, wanted) == 0) {
		row->run();
		_exit(0);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "list") == 0) {
		each(print);
		return 0;
	}
	if (argc != 4) {
		dprintf(STDERR_FILENO, "usage: traffic list | traffic ROW NEAR FAR\n");
		return 64;
	}
	start_truth();
	find_places(argv[2], argv[3]);
	wanted = argv[1];
	each(run);
	dprintf(STDERR_FILENO, "no row %s\n", wanted);
	return 64;
}
