// SPDX-License-Identifier: Apache-2.0
/* io_uring by its system calls alone: one request at a time, or many answers to one. */
#ifndef RING_H
#define RING_H

#include <linux/io_uring.h>

#include "traffic.h"

struct ring {
	int file;
	bool polled; /* a thread of the kernel looks for requests (IORING_SETUP_SQPOLL) */
	unsigned *sq_tail, *sq_flags, *cq_head, *cq_tail;
	unsigned sq_mask, cq_mask, *sq_array;
	struct io_uring_sqe *requests;
	struct io_uring_cqe *answers;
};

/* What became of a request. */
struct answer {
	uint64_t mark; /* the request's user_data */
	int result; /* a number of bytes, or a negative errno */
	unsigned flags;
};

/* Ends the process with not_here() where the kernel has none. */
void open_ring(struct ring *ring, unsigned flags);
/* The first of the ring's own files: a ring with a thread takes no others before 5.11. */
void fix_file(const struct ring *ring, int handle);
void submit(struct ring *ring, const struct io_uring_sqe *request);
/* Waits for the next answer. */
struct answer answer_of(struct ring *ring);
/* The result of one request. */
int perform(struct ring *ring, const struct io_uring_sqe *request);

#endif
