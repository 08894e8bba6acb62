// SPDX-License-Identifier: Apache-2.0
/* io_uring by its system calls alone. */
#include "ring.h"

#include <sys/mman.h>

#define ENTRIES 8

static void *map(const struct ring *ring, size_t size, off_t what)
{
	return CHECK(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->file, what));
}

void open_ring(struct ring *ring, unsigned flags)
{
	struct io_uring_params params = {.flags = flags, .sq_thread_idle = 1000};
	char *sq, *cq;

	ring->file = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
	if (ring->file < 0)
		not_here("io_uring_setup");
	ring->polled = flags & IORING_SETUP_SQPOLL;
	sq = map(ring, params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	cq = map(ring, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	ring->requests = map(ring, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring->sq_tail = (unsigned *)(sq + params.sq_off.tail);
	ring->sq_flags = (unsigned *)(sq + params.sq_off.flags);
	ring->sq_mask = *(unsigned *)(sq + params.sq_off.ring_mask);
	ring->sq_array = (unsigned *)(sq + params.sq_off.array);
	ring->cq_head = (unsigned *)(cq + params.cq_off.head);
	ring->cq_tail = (unsigned *)(cq + params.cq_off.tail);
	ring->cq_mask = *(unsigned *)(cq + params.cq_off.ring_mask);
	ring->answers = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
}

void fix_file(const struct ring *ring, int handle)
{
	CHECK(syscall(SYS_io_uring_register, ring->file, IORING_REGISTER_FILES, &handle, 1));
}

void submit(struct ring *ring, const struct io_uring_sqe *request)
{
	unsigned tail = *ring->sq_tail, at = tail & ring->sq_mask;

	ring->requests[at] = *request;
	ring->sq_array[at] = at;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_SEQ_CST);
	if (!ring->polled)
		MUST(CHECK(syscall(SYS_io_uring_enter, ring->file, 1, 0, 0, NULL, 0)) == 1);
	else if (__atomic_load_n(ring->sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
		CHECK(syscall(SYS_io_uring_enter, ring->file, 1, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0));
}

struct answer answer_of(struct ring *ring)
{
	const struct io_uring_cqe *answer;
	struct answer told;
	unsigned head = *ring->cq_head;

	while (__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) == head)
		if (syscall(SYS_io_uring_enter, ring->file, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
			MUST(errno == EINTR);
	answer = &ring->answers[head & ring->cq_mask];
	told = (struct answer){answer->user_data, answer->res, answer->flags};
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return told;
}

int perform(struct ring *ring, const struct io_uring_sqe *request)
{
	submit(ring, request);
	return answer_of(ring).result;
}
