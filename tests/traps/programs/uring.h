/* io_uring by its system calls: one ring, one request at a time. */
#ifndef URING_H
#define URING_H

#include <linux/io_uring.h>

#include "trap.h"

struct ring {
	int handle;
	bool polled;	  /* SQPOLL: a thread of the kernel takes the requests */
	bool fixed_files; /* and before 5.11 it takes only files that are registered */
	unsigned char entry_flags;
	unsigned *tail, *mask, *array, *flags, *done_head, *done_tail, *done_mask;
	struct io_uring_cqe *done;
	struct io_uring_sqe *entries;
};

/* Makes a ring; false where there is none (not built, switched off by kernel.io_uring_disabled, older than 5.4). */
static inline bool ring_open(struct ring *ring, unsigned setup_flags)
{
	struct io_uring_params layout = {.flags = setup_flags, .sq_thread_idle = 100};
	size_t size, other;
	char *queues;

	memset(ring, 0, sizeof(*ring));
	ring->handle = (int)syscall(SYS_io_uring_setup, 8, &layout);
	if (ring->handle == -1 || !(layout.features & IORING_FEAT_SINGLE_MMAP))
		return false;
	ring->polled = setup_flags & IORING_SETUP_SQPOLL;
	ring->fixed_files = ring->polled && !(layout.features & (1U << 7)); /* IORING_FEAT_SQPOLL_NONFIXED */
	size = layout.cq_off.cqes + layout.cq_entries * sizeof(struct io_uring_cqe);
	other = layout.sq_off.array + layout.sq_entries * sizeof(unsigned);
	queues = mmap(NULL, size > other ? size : other, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->handle,
		      IORING_OFF_SQ_RING);
	MUST(queues != MAP_FAILED);
	ring->entries = mmap(NULL, layout.sq_entries * sizeof(*ring->entries), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_POPULATE, ring->handle, IORING_OFF_SQES);
	MUST(ring->entries != MAP_FAILED);
	ring->tail = (void *)(queues + layout.sq_off.tail);
	ring->mask = (void *)(queues + layout.sq_off.ring_mask);
	ring->array = (void *)(queues + layout.sq_off.array);
	ring->flags = (void *)(queues + layout.sq_off.flags);
	ring->done_head = (void *)(queues + layout.cq_off.head);
	ring->done_tail = (void *)(queues + layout.cq_off.tail);
	ring->done_mask = (void *)(queues + layout.cq_off.ring_mask);
	ring->done = (void *)(queues + layout.cq_off.cqes);
	if (ring->fixed_files) {
		int none = -1;

		CHECK(syscall(SYS_io_uring_register, ring->handle, IORING_REGISTER_FILES, &none, 1));
	}
	return true;
}

/* Does one request and returns its result, a negative errno where it failed. */
static inline int ring_do(struct ring *ring, struct io_uring_sqe entry)
{
	unsigned at = *ring->tail, head = *ring->done_head, wake = 0;
	int result;

	entry.flags |= ring->entry_flags;
	if (ring->fixed_files) {
		struct io_uring_files_update update = {.fds = (uintptr_t)&entry.fd};

		MUST(syscall(SYS_io_uring_register, ring->handle, IORING_REGISTER_FILES_UPDATE, &update, 1) == 1);
		entry.fd = 0;
		entry.flags |= IOSQE_FIXED_FILE;
	}
	ring->entries[at & *ring->mask] = entry;
	ring->array[at & *ring->mask] = at & *ring->mask;
	__atomic_store_n(ring->tail, at + 1, __ATOMIC_SEQ_CST);
	if (ring->polled && __atomic_load_n(ring->flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
		wake = IORING_ENTER_SQ_WAKEUP;
	while (__atomic_load_n(ring->done_tail, __ATOMIC_ACQUIRE) == head) {
		if (syscall(SYS_io_uring_enter, ring->handle, ring->polled ? 0 : 1, 1, IORING_ENTER_GETEVENTS | wake, NULL,
			    0) == -1)
			MUST(errno == EINTR);
		wake = 0;
	}
	result = ring->done[head & *ring->done_mask].res;
	__atomic_store_n(ring->done_head, head + 1, __ATOMIC_RELEASE);
	if (ring->fixed_files) {
		int none = -1;
		struct io_uring_files_update update = {.fds = (uintptr_t)&none};

		MUST(syscall(SYS_io_uring_register, ring->handle, IORING_REGISTER_FILES_UPDATE, &update, 1) == 1);
	}
	return result;
}

static inline int ring_connect(struct ring *ring, int handle, const struct address *to)
{
	return ring_do(ring, (struct io_uring_sqe){.opcode = IORING_OP_CONNECT,
						   .fd = handle,
						   .addr = (uintptr_t)&to->storage,
						   .off = to->length});
}

static inline int ring_accept(struct ring *ring, int listener)
{
	return ring_do(ring, (struct io_uring_sqe){.opcode = IORING_OP_ACCEPT, .fd = listener});
}

static inline int ring_send(struct ring *ring, int handle, const void *bytes, size_t count)
{
	return ring_do(ring, (struct io_uring_sqe){.opcode = IORING_OP_SEND,
						   .fd = handle,
						   .addr = (uintptr_t)bytes,
						   .len = (unsigned)count,
						   .msg_flags = MSG_NOSIGNAL});
}

static inline int ring_receive(struct ring *ring, int handle, void *bytes, size_t count)
{
	return ring_do(ring, (struct io_uring_sqe){.opcode = IORING_OP_RECV,
						   .fd = handle,
						   .addr = (uintptr_t)bytes,
						   .len = (unsigned)count});
}

static inline int ring_message(struct ring *ring, unsigned char opcode, int handle, struct msghdr *message)
{
	return ring_do(ring, (struct io_uring_sqe){
				     .opcode = opcode, .fd = handle, .addr = (uintptr_t)message, .len = 1});
}

#endif
