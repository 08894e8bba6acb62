// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Processes: exec, failed exec, fork, exit, and the iterator that finds those
 * which ran before the probes did.
 */
#define HAS_BUDGETS
#include "exec.bpf.h"

LICENSE("Dual BSD/GPL");

/* Processes whose exit was reported: two last threads that exit at once both see
 * signal->live at 0 (the tracepoint tells them apart only since 6.16, group_dead). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u8);
} exited SEC(".maps");

/* Writes the components of a path behind what is in a slot, from the leaf up, each with its NUL, and returns
 * the bytes written: at most PATH_BYTES, at most PATH_DEPTH components and mounts. The
 * walk goes to the root of the mount namespace, past a chroot.
 *
 * Lengths are u64 everywhere: compilers without 32-bit arithmetic shift a u32 up and down,
 * over which 5.10 loses its bounds. */
FUNCTION u64 write_path(u64 address, u64 behind, u32 number, u32 too_long)
{
	const struct path *path = (const void *)address;
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct vfsmount *vfs = BPF_CORE_READ(path, mnt);
	struct slot *slot = bpf_map_lookup_elem(MAP(slots), &number);
	struct exec_record *r;
	bool whole = false;
	u64 done;
	char *to;

	if (!slot)
		return 0;
	r = (void *)slot->bytes;
	done = slot->zero;
	ONE_RANGE(behind, 8191);
	to = slot->bytes + sizeof(*r) + behind;
	for (int i = 0; i < PATH_DEPTH; i++) {
		ONE_RANGE(done, 4095);
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);

		if (dentry == BPF_CORE_READ(vfs, mnt_root) || dentry == parent) {
			struct mount *mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			if (mount == above) {
				whole = true;
				/* A memfd is a root of its own, with a name. */
				if (i == 0) {
					long n = bpf_probe_read_kernel_str(to, NAME_LEN, BPF_CORE_READ(dentry, d_name.name));

					if (n > 2 && n <= NAME_LEN) {
						done = n;
						ONE_RANGE(done, 511);	/* 6.1 and older lose the bounds that were just checked */
						r->h.flags |= FLAG_DETACHED;
					}
				}
				break;
			}
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			vfs = (void *)above + bpf_core_field_offset(struct mount, mnt);
			continue;
		}
		if (done >= PATH_BYTES - NAME_LEN)
			break;
		long n = bpf_probe_read_kernel_str(to + done, NAME_LEN, BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0 || n > NAME_LEN)
			break;
		done += n;
		dentry = parent;
	}
	if (!whole)
		r->h.flags |= too_long;
	return done;
}

/* Where a process is in a control group of version 2, that one. Where it is in the root, as all are
 * on machines with version 1, the first of some hierarchies of version 1 that tells more: of those
 * that services and containers get a group in. */
static __always_inline const struct kernfs_node *cgroup_of(const struct css_set *set, u32 *flags)
{
	const struct kernfs_node *root = BPF_CORE_READ(set, dfl_cgrp, kn), *node = root;

	if (kernfs_parent(node))
		return node;
	node = CONTROLLED(set, pids);
	if (!kernfs_parent(node))
		node = CONTROLLED(set, memory);
	if (!kernfs_parent(node))
		node = CONTROLLED(set, cpu);
	if (!kernfs_parent(node))
		node = CONTROLLED(set, devices);
	if (!kernfs_parent(node))
		return root;
	*flags |= FLAG_CGROUP_V1;
	return node;
}

/* Writes the names of the control group of a process that has this css_set, and of those above it, as write_path() does,
 * at most CGROUP_BYTES. The last turn only looks whether that was all. No loop that clang turns about: one that is
 * entered in its middle, and begins right behind its end, kernels before 6.8 refuse ("back-edge", commit
 * 10e14e9652bf). */
FUNCTION u64 write_cgroup(u64 address, u64 behind, u32 number)
{
	struct slot *slot = bpf_map_lookup_elem(MAP(slots), &number);
	const struct kernfs_node *node, *parent;
	struct exec_record *r;
	u64 done;
	char *to;

	if (!slot)
		return 0;
	r = (void *)slot->bytes;
	done = slot->zero;
	ONE_RANGE(behind, 16383);
	to = slot->bytes + sizeof(*r) + behind;
	node = cgroup_of((const void *)address, &r->h.flags);
	parent = kernfs_parent(node);
	for (int i = 0; i < CGROUP_DEPTH && parent; i++) {	/* the root has no name */
		long n;

		ONE_RANGE(done, 1023);
		if (done >= CGROUP_BYTES - NAME_LEN)
			break;
		n = bpf_probe_read_kernel_str(to + done, NAME_LEN, BPF_CORE_READ(node, name));
		if (n <= 0 || n > NAME_LEN)
			break;
		done += n;
		node = parent;
		parent = kernfs_parent(node);
	}
	ONE_RANGE(done, 1023);
	if (parent)
		r->h.flags |= FLAG_TRUNCATED_CGROUP;
	return done;
}

static __always_inline void describe_exe(struct exec_record *r, const struct file *file)
{
	const struct inode *inode = BPF_CORE_READ(file, f_inode);

	r->inode = BPF_CORE_READ(inode, i_ino);
	r->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	if (!BPF_CORE_READ(inode, i_nlink))
		r->h.flags |= FLAG_DELETED;
}

/* Bytes of data so far, but for the argv. */
static __always_inline u64 described(const struct exec_record *r)
{
	u64 off = AS_STORED(r->exe_len) + AS_STORED(r->cwd_len) + AS_STORED(r->file_len) + AS_STORED(r->interp_len) +
		  AS_STORED(r->cgroup_len);

	ONE_RANGE(off, 16383);
	return off;
}

/* What is compared must be what is added to the pointer: clang may keep them apart, and then the
 * verifier of 6.1 derives a range from the one and not from the other. */
#define APPEND_STRING(field, limit, source, too_long) do {					\
	u64 __off = described(r);								\
	asm volatile("" : "+r"(__off));								\
	if (__off <= EXEC_DATA - (limit)) {							\
		long __n = bpf_probe_read_kernel_str(data + __off, limit, source);		\
		if (__n > 0 && __n <= (limit)) {						\
			r->field = __n;								\
			if (__n == (limit))							\
				r->h.flags |= too_long;						\
		}										\
	}											\
} while (0)

/* Everything of an exec record but the argv; returns the bytes of data written. */
static __always_inline u64 describe(struct slot *slot, struct task_struct *task, struct file *file,
				    const char *filename, const char *interp)
{
	struct exec_record *r = (void *)slot->bytes;
	char *data = slot->bytes + sizeof(*r);
	u64 fs = (u64)BPF_CORE_READ(task, fs);
	u32 number = AS_STORED(slot->number);

	identify(&r->id, task);
	describe_exe(r, file);
	r->cwd_len = r->file_len = r->interp_len = r->cgroup_len = 0;
	r->exe_len = write_path((u64)&file->f_path, 0, number, FLAG_TRUNCATED_EXE);
	if (fs)
		r->cwd_len = write_path((u64)&((struct fs_struct *)fs)->pwd, r->exe_len, number, FLAG_TRUNCATED_CWD);
	if (filename) {
		APPEND_STRING(file_len, FILE_BYTES, filename, FLAG_TRUNCATED_FILE);
		if (interp != filename) {
			r->h.flags |= FLAG_SCRIPT;
			APPEND_STRING(interp_len, FILE_BYTES, interp, FLAG_TRUNCATED_FILE);
		}
	}
	r->cgroup_len = write_cgroup((u64)BPF_CORE_READ(task, cgroups), described(r), number);
	return described(r);
}

/* What an exec is told by: of a stand-in only the requested name is known, not what interprets it. */
struct image {
	struct file *file;
	const char *filename;
	const char *interp;
	u32 argc;
	u32 flags;
};

static __always_inline int executed(void *ctx, struct task_struct *task, int old_pid, const struct image *image)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	u64 start = boot_start(BPF_CORE_READ(task, group_leader));
	struct tally *t = tally_of(KIND_EXEC);
	struct exec_record *r;
	struct mm_struct *mm;
	struct slot *slot;
	u64 from, total, off, want, now;

	if (!t || is_seen_to(SEEN_EXEC, BPF_CORE_READ(task, self_exec_id)))
		return 0;
	count(&t->attempts);
	if (is_excluded(tgid, start) || !pid_wanted(tgid)) {
		count(&t->filtered);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (current_over_budget(now, RING_BYTES(sizeof(*r)))) {
		note_unseen(tgid, start, now, false);
		collapse_process(t, task, KIND_EXEC, now, image->file);
		return 0;
	}
	slot = take_slot();
	if (!slot) {
		note_failure(t, now);
		count(&t->no_slot);
		return 0;
	}
	r = (void *)slot->bytes;
	begin_at(&r->h, now, KIND_EXEC, RING_LIFECYCLE, tgid, old_pid, start);
	r->h.flags |= image->flags;
	off = describe(slot, task, image->file, image->filename, image->interp);
	r->argc = image->argc;

	/* The argv is in user memory, but nothing has run there yet: this is as committed. */
	mm = BPF_CORE_READ(task, mm);
	from = BPF_CORE_READ(mm, arg_start);
	total = BPF_CORE_READ(mm, arg_end) - from;
	r->args_total = total;
	r->args_len = 0;
	want = total > ARGS_BYTES ? ARGS_BYTES : total;
	if (total > ARGS_BYTES)
		r->h.flags |= FLAG_TRUNCATED_ARGS;
	if (off <= EXEC_DATA - ARGS_BYTES && want > 0 && want <= ARGS_BYTES) {
		if (bpf_probe_read_user(r->data + off, want, (const void *)from) == 0) {
			r->args_len = want;
			off += want;
		} else {
			r->h.flags |= FLAG_FAULT_ARGS;
		}
	}
	if (r->h.flags & (FLAG_TRUNCATED_EXE | FLAG_TRUNCATED_CWD | FLAG_TRUNCATED_ARGS | FLAG_TRUNCATED_FILE | FLAG_FAULT_ARGS |
			  FLAG_TRUNCATED_CGROUP))
		count(&t->truncated);
	if (off <= EXEC_DATA && !emit(ctx, lifecycle, r, sizeof(*r) + off, t))
		used_more(RING_LIFECYCLE, off);
	release(&slot->busy);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct image image = {
		.file = BPF_CORE_READ(bprm, file),
		.filename = BPF_CORE_READ(bprm, filename),
		.interp = BPF_CORE_READ(bprm, interp),
		.argc = BPF_CORE_READ(bprm, argc),
		.flags = BPF_CORE_READ(bprm, fdpath) ? FLAG_EXECFD : 0,
	};

	return executed(ctx, task, old_pid, &image);
}

static __always_inline int forked(void *ctx, struct task_struct *parent, struct task_struct *child)
{
	u32 tgid = BPF_CORE_READ(child, tgid);
	struct fork_record r;
	struct tally *t;
	u32 forker;
	u64 now;

	if (BPF_CORE_READ(child, pid) != (int)tgid) {
		count_own(child, KIND_FORK);
		return 0;
	}
	if (is_seen_to(SEEN_FORK, boot_start(child)))
		return 0;
	t = tally_of(KIND_FORK);
	if (!t)
		return 0;
	count(&t->attempts);
	forker = BPF_CORE_READ(parent, tgid);
	if (KNOB(filters) & FILTER_FOLLOW) {
		u8 *followed = bpf_map_lookup_elem(MAP(filter_pids), &forker);

		if (followed) {
			u8 yes = 1;

			if (bpf_map_update_elem(MAP(filter_pids), &tgid, &yes, BPF_ANY))
				count(&t->map_full);
		}
	}
	if (is_excluded(forker, boot_start(BPF_CORE_READ(parent, group_leader))) || !pid_wanted(tgid)) {
		count(&t->filtered);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (current_over_budget(now, RING_BYTES(sizeof(r)))) {
		collapse_process(t, child, KIND_FORK, now, program_of(child));
		return 0;
	}
	__builtin_memset(&r, 0, sizeof(r));
	begin_at(&r.h, now, KIND_FORK, RING_LIFECYCLE, tgid, tgid, boot_start(child));
	identify(&r.id, child);
	r.forker_tid = BPF_CORE_READ(parent, pid);
	r.forker_tgid = forker;
	emit(ctx, lifecycle, &r, sizeof(r), t);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	return forked(ctx, parent, child);
}

static __always_inline int gone(void *ctx, struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct task_struct *leader;
	struct exit_record r;
	struct tally *t;
	u64 key, start, now;
	u32 tgid;
	u8 yes = 1;

	/* do_exit() takes this thread off `live` before the tracepoint: 0 is the last one. */
	if (BPF_CORE_READ(signal, live.counter) != 0) {
		count_own(task, KIND_EXIT);
		return 0;
	}
	if (is_seen_to(SEEN_EXIT, boot_start(task)))
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	leader = BPF_CORE_READ(task, group_leader);
	start = boot_start(leader);
	key = (u64)tgid << 32 ^ start;
	if (BPF_CORE_READ(signal, nr_threads) > 1 || task != leader) {
		if (bpf_map_update_elem(MAP(exited), &key, &yes, BPF_NOEXIST))
			return 0;
	} else if (bpf_map_lookup_elem(MAP(exited), &key)) {
		return 0;
	}
	t = tally_of(KIND_EXIT);
	if (!t)
		return 0;
	count(&t->attempts);
	if (is_excluded(tgid, start) || !pid_wanted(tgid)) {
		count(&t->filtered);
		return 0;
	}
	if (KNOB(filters) & FILTER_FOLLOW)
		bpf_map_delete_elem(MAP(filter_pids), &tgid);
	now = bpf_ktime_get_boot_ns();
	if (current_over_budget(now, RING_BYTES(sizeof(r)))) {
		note_unseen(tgid, start, now, true);
		/* Its memory is gone, and with that what it ran. */
		collapse_process(t, task, KIND_EXIT, now, NULL);
		return 0;
	}
	__builtin_memset(&r, 0, sizeof(r));
	begin_at(&r.h, now, KIND_EXIT, RING_LIFECYCLE, tgid, BPF_CORE_READ(task, pid), start);
	identify(&r.id, leader);
	/* As wait_task_zombie() chooses it. */
	r.status = BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT ? BPF_CORE_READ(signal, group_exit_code)
								    : BPF_CORE_READ(leader, exit_code);
	if (r.status & 0x80)
		r.h.flags |= FLAG_CORE;
	/* Threads that were reaped are in the sum; the leader stays unreaped until the end. */
	r.cpu_ns = BPF_CORE_READ(signal, sum_sched_runtime) + BPF_CORE_READ(task, se.sum_exec_runtime);
	if (task != leader)
		r.cpu_ns += BPF_CORE_READ(leader, se.sum_exec_runtime);
	r.max_rss = BPF_CORE_READ(signal, maxrss);
	emit(ctx, lifecycle, &r, sizeof(r), t);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	return gone(ctx, task);
}

/* Not 0 also for SECCOMP_RET_KILL_*: the kernel rolls the result register back to the
 * syscall's number and a SIGSYS is on its way (5.16, commit 307d522f5eb8). */
SEC("tp/syscalls/sys_exit_execve")
int exit_execve(struct trace_event_raw_sys_exit *ctx)
{
	long ret = exec_result(ctx->ret);

	return ret ? exec_returned(ctx, ret, false, false, false) : 0;
}

SEC("tp/syscalls/sys_exit_execveat")
int exit_execveat(struct trace_event_raw_sys_exit *ctx)
{
	long ret = exec_result(ctx->ret);

	return ret ? exec_returned(ctx, ret, true, false, false) : 0;
}

/* Who asks, as the initial namespaces see it: tgid, tid, start. */
static __always_inline void describe_asker(struct header *h)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	begin(h, KIND_TRACER_FOUND, 0, BPF_CORE_READ(task, tgid), BPF_CORE_READ(task, pid),
	      boot_start(BPF_CORE_READ(task, group_leader)));
}

/* A child of who asks: its tgid, its number in its own pid namespace, its start. */
static __always_inline void describe_child(struct header *h, const struct task_struct *child)
{
	begin(h, KIND_TRACER_FOUND, 0, BPF_CORE_READ(child, tgid), BPF_CORE_READ(inner_pid(child), nr), boot_start(child));
}

#define NEWEST 8	/* children that a process may have forked meanwhile */

#ifndef TRACER_BCC
SEC("tp/sched/sched_process_exec")
int exec_stand_in(struct trace_event_raw_sched_process_exec *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct image image = {
		.file = BPF_CORE_READ(task, mm, exe_file),
		.filename = (const char *)ctx + (ctx->__data_loc_filename & 0xffff),
	};

	image.interp = image.filename;
	return executed(ctx, task, ctx->old_pid, &image);
}

/* The child of that number, which is among the last of its parent's. */
static __always_inline struct task_struct *child_of(struct task_struct *parent, int pid)
{
	struct list_head *at = BPF_CORE_READ(parent, children.prev);
	struct task_struct *child;

	for (int i = 0; i < NEWEST; i++) {
		child = (void *)at - bpf_core_field_offset(struct task_struct, sibling);
		if (BPF_CORE_READ(child, pid) == pid)
			return child;
		at = BPF_CORE_READ(child, sibling.prev);
	}
	return NULL;
}

SEC("tp/sched/sched_process_fork")
int fork_stand_in(struct trace_event_raw_sched_process_fork *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *child = child_of(task, ctx->child_pid);

	if (!child)	/* CLONE_PARENT, or a thread: that is no child of anybody */
		child = child_of(BPF_CORE_READ(task, real_parent), ctx->child_pid);
	return child ? forked(ctx, task, child) : 0;
}

SEC("tp/sched/sched_process_exit")
int exit_stand_in(void *ctx)
{
	return gone(ctx, (void *)bpf_get_current_task());
}

/* The processes that are there already. An exec record without filename; the argv of
 * another process can be read only in a sleepable iterator (5.18), so user space
 * reads it from /proc where this one is refused. */
static __always_inline void found(struct bpf_iter__task *ctx, bool read_args)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	struct exec_record *r;
	struct mm_struct *mm;
	struct slot *slot;
	struct file *file;
	u64 off = 0;
	u32 size, tgid;

	if (!task)
		return;
	tgid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(task, pid) != (int)tgid || BPF_CORE_READ(task, signal, live.counter) == 0)
		return;
	slot = take_slot();
	if (!slot)
		return;
	r = (void *)slot->bytes;
	begin(&r->h, KIND_PROCESS_FOUND, RING_LIFECYCLE, tgid, tgid, boot_start(task));
	r->argc = 0;
	r->args_total = 0;
	r->args_len = 0;
	mm = BPF_CORE_READ(task, mm);
	file = mm ? BPF_CORE_READ(mm, exe_file) : NULL;
	if (file) {
		off = describe(slot, task, file, NULL, NULL);
	} else {
		identify(&r->id, task);
		r->inode = 0;
		r->dev = 0;
		r->exe_len = 0;
		r->cwd_len = 0;
		r->file_len = 0;
		r->interp_len = 0;
		r->cgroup_len = 0;
		if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
			r->h.flags |= FLAG_KTHREAD;
	}
	if (is_excluded(tgid, r->h.start))
		goto out;
	if (mm) {
		u64 from = BPF_CORE_READ(mm, arg_start);
		u64 total = BPF_CORE_READ(mm, arg_end) - from;
		u64 want = total > ARGS_BYTES ? ARGS_BYTES : total;

		r->args_total = total;
		if (total > ARGS_BYTES)
			r->h.flags |= FLAG_TRUNCATED_ARGS;
		if (read_args && off <= EXEC_DATA - ARGS_BYTES && want > 0 && want <= ARGS_BYTES) {
			if (bpf_copy_from_user_task(r->data + off, want, (const void *)from, task, 0) == 0) {
				r->args_len = want;
				off += want;
			} else {
				r->h.flags |= FLAG_FAULT_ARGS;
			}
		} else if (want) {
			r->h.flags |= FLAG_FAULT_ARGS;
		}
	}
	ONE_RANGE(off, 32767);	/* 6.12 and older forget what they knew of it */
	if (off <= EXEC_DATA) {
		size = sizeof(*r) + off;
		bpf_seq_write(seq, &size, sizeof(size));
		bpf_seq_write(seq, r, sizeof(*r) + off);
	}
out:
	release(&slot->busy);
}

SEC("iter.s/task")
int find_processes(struct bpf_iter__task *ctx)
{
	found(ctx, true);
	return 0;
}

SEC("iter/task")
int find_processes_plain(struct bpf_iter__task *ctx)
{
	found(ctx, false);
	return 0;
}

/* The asker first, then its children and process 1, if it is there. Kernels that protect that from BPF
 * run no program in its context, and so none for what softirqs do when they interrupt it. */
SEC("iter/task")
int whoami(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	struct header h;

	if (!task)
		return 0;
	if (!ctx->meta->seq_num) {
		describe_asker(&h);
		bpf_seq_write(seq, &h, sizeof(h));
	}
	if (BPF_CORE_READ(task, pid) == 1) {
		begin(&h, KIND_TRACER_FOUND, 0, 1, 1, boot_start(task));
		bpf_seq_write(seq, &h, sizeof(h));
	} else if (BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid) &&
		   BPF_CORE_READ(task, real_parent, tgid) == (int)(bpf_get_current_pid_tgid() >> 32)) {
		describe_child(&h, task);
		bpf_seq_write(seq, &h, sizeof(h));
	}
	return 0;
}
#else
/* Run by BPF_PROG_TEST_RUN: who asks, or (pid) a child of that number in its own pid namespace. Returns 1
 * when there is an answer, in `answer`. */
struct asked_for {
	u64 pid;
};

int whoami(const struct asked_for *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *child;
	struct socket_record *answer = the_answer();
	u64 pid = ctx->pid;
	struct list_head *at, *end;

	if (!answer)
		return 0;
	if (!pid) {
		describe_asker(&answer->h);
		return 1;
	}
	task = BPF_CORE_READ(task, group_leader);
	end = (void *)task + bpf_core_field_offset(struct task_struct, children);
	at = BPF_CORE_READ(task, children.prev);
	for (int i = 0; i < NEWEST && at != end; i++) {
		child = (void *)at - bpf_core_field_offset(struct task_struct, sibling);
		if (BPF_CORE_READ(inner_pid(child), nr) == (int)pid) {
			describe_child(&answer->h, child);
			return 1;
		}
		at = BPF_CORE_READ(child, sibling.prev);
	}
	return 0;
}
#endif
