/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one place for kernel drift and for what differs between loaders.
 */
#ifndef COMPAT_H
#define COMPAT_H

#ifdef TRACER_BCC
#include "bcc.h"
#else
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define LICENSE(text) char LICENSE[] SEC("license") = text
#define MAP(name) (&(name))
#define KNOBS const volatile struct knobs knobs SEC(".rodata.knobs") = {}
#define KNOB(field) (knobs.field)

/* A function that takes nothing but numbers: the verifier looks at it once in a program, and by itself, however often
 * it is called (5.6, commit 51c39bb1d5d1). */
#define FUNCTION __noinline

/* A typed probe (tp_btf) may load from its arguments directly, which costs a tenth of a
 * helper call for each field; a pointer that was found by following others may not.
 * `typed` is a constant wherever it is inlined, so only one way is compiled. */
#define TYPED true
#define FIELD(typed, p, field) ((typed) ? (p)->field : BPF_CORE_READ(p, field))

/* start_boottime was called real_start_time before 5.5 (commit cf25e24db61c). */
struct task_struct___before_5_5 {
	u64 real_start_time;
} __attribute__((preserve_access_index));

static __always_inline u64 boot_start(const struct task_struct *task)
{
	const struct task_struct___before_5_5 *old = (const void *)task;

	if (bpf_core_field_exists(old->real_start_time))
		return BPF_CORE_READ(old, real_start_time);
	return BPF_CORE_READ(task, start_boottime);
}

/* Bytes of a kernel stack: 16 KiB, more with arm64's pages of 64 KiB or with KASAN. Where
 * stacks are mapped pages (x86_64 4.9+, arm64 4.14+, by default) the task tells: such an
 * area's size counts its pages and one more, which guards it. */
static __always_inline u64 stack_bytes(const struct task_struct *task)
{
	if (bpf_core_field_exists(task->stack_vm_area)) {
		const struct vm_struct *area = BPF_CORE_READ(task, stack_vm_area);
		u64 size = BPF_CORE_READ(area, size), pages = BPF_CORE_READ(area, nr_pages);

		if (pages)
			return size - size / (pages + 1);
	}
	return 16384;
}

enum bpf_func_id___helpers {
	BPF_FUNC_task_pt_regs___helpers = 1,
	BPF_FUNC_get_current_task_btf___helpers = 2,
};

/* The user registers of the current task: they keep a syscall's arguments until it has
 * returned. bpf_task_pt_regs is 5.15+. Before, they are at the very top of the kernel
 * stack; since 6.9 with FRED x86 may keep more above them, so the helper goes first. */
static __always_inline const struct pt_regs *user_regs(const struct task_struct *task)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___helpers, BPF_FUNC_task_pt_regs___helpers))
		return (const void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());
	return BPF_CORE_READ(task, stack) + stack_bytes(task) - bpf_core_type_size(struct pt_regs);
}

/* The descriptor table of the current process. Not by its typed pointer: see read_addresses(). */
static __always_inline struct fdtable *current_fds(void)
{
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), files, fdt);
}

/* Absent without CONFIG_AUDIT. */
static __always_inline void read_audit(const struct task_struct *task, u32 *loginuid, u32 *session)
{
	if (bpf_core_field_exists(task->loginuid))
		*loginuid = BPF_CORE_READ(task, loginuid.val);
	if (bpf_core_field_exists(task->sessionid))
		*session = BPF_CORE_READ(task, sessionid);
}

/* A cgroup program gets its socket as one of the types that the verifier guards. This is the address that typed
 * probes know it by, as a number: what an atomic addition has touched is a pointer no more (with CAP_PERFMON, since
 * 4.15). In assembler, since compilers turn one of nothing into an atomic or, which is 5.12+. */
static __always_inline u64 address_of(const void *sk)
{
	u64 address = (u64)sk, nothing = 0;

	asm volatile("lock *(u64 *)(%0 + 0) += %1" : : "r"(&address), "r"(nothing) : "memory");
	return address;
}

/* kernfs_node's parent is called __parent since 6.15 (commit 633488947ef6). */
struct kernfs_node___since_6_15 {
	struct kernfs_node *__parent;
} __attribute__((preserve_access_index));

static __always_inline const struct kernfs_node *kernfs_parent(const struct kernfs_node *node)
{
	const struct kernfs_node___since_6_15 *now = (const void *)node;

	if (bpf_core_field_exists(now->__parent))
		return BPF_CORE_READ(now, __parent);
	return BPF_CORE_READ(node, parent);
}

/* Controllers have numbers that depend on which of them the kernel was built with. */
enum cgroup_subsys_id___any {
	pids_cgrp_id___any = 1,
	memory_cgrp_id___any,
	cpu_cgrp_id___any,
	devices_cgrp_id___any,
};

/* The group of a task in the hierarchy of a controller, NULL where there is no such controller. */
#define CONTROLLED(set, controller)								\
({												\
	const struct kernfs_node *__node = NULL;						\
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id___any, controller##_cgrp_id___any)) {	\
		u64 __at = bpf_core_field_offset(struct css_set, subsys) +			\
			   bpf_core_enum_value(enum cgroup_subsys_id___any, controller##_cgrp_id___any) * 8;	\
		const struct cgroup_subsys_state *__css = NULL;					\
		bpf_probe_read_kernel(&__css, sizeof(__css), (const void *)(set) + __at);	\
		__node = BPF_CORE_READ(__css, cgroup, kn);					\
	}											\
	__node;											\
})

/* Some kernels forget the way back when a program is detached from a function that a task
 * sleeps in, as all do in accept(2), and crash. Those that don't have this struct (5.12,
 * commit e21aa341785c, and 5.10 since its backport); on others this is not verified. */
#define SAFE_TO_DETACH do {						\
	if (!bpf_core_type_exists(struct bpf_tramp_image))		\
		return ((int (*)(void))0x7fff)();	/* no helper */	\
} while (0)

/* The number of the call that is running, and those that move bytes without being sent or received
 * from memory; arch/x86/entry/syscalls and include/uapi/asm-generic/unistd.h. */
#if defined(__TARGET_ARCH_x86)
#define SYSCALL_OF(regs) ((regs)->orig_ax)
#define READ_SYSCALL_OF(regs) BPF_CORE_READ(regs, orig_ax)
#define NR_SENDFILE 40
#define NR_SPLICE 275
#define NR_COMPAT_SENDFILE 187
#define NR_COMPAT_SENDFILE64 239
#define NR_COMPAT_SPLICE 313
#elif defined(__TARGET_ARCH_arm64)
#define SYSCALL_OF(regs) ((u32)(regs)->syscallno)
#define READ_SYSCALL_OF(regs) ((u32)BPF_CORE_READ(regs, syscallno))
#define NR_SENDFILE 71
#define NR_SPLICE 76
#define NR_COMPAT_SENDFILE 187
#define NR_COMPAT_SENDFILE64 239
#define NR_COMPAT_SPLICE 340
#endif
#define NR_IO_URING_ENTER 426

#endif /* not TRACER_BCC */

/* At a syscall's exit arm64's regs[0] holds the result; the first argument is kept in orig_x0. */
#if defined(__TARGET_ARCH_x86)
#define REGS_ARG1(from) BPF_CORE_READ(from, di)
#define REGS_ARG2(from) BPF_CORE_READ(from, si)
#define REGS_ARG3(from) BPF_CORE_READ(from, dx)
#define REGS_RESULT(from) BPF_CORE_READ(from, ax)
#elif defined(__TARGET_ARCH_arm64)
#define REGS_ARG1(from) BPF_CORE_READ(from, orig_x0)
#define REGS_ARG2(from) BPF_CORE_READ(from, regs[1])
#define REGS_ARG3(from) BPF_CORE_READ(from, regs[2])
#define REGS_RESULT(from) BPF_CORE_READ(from, regs[0])
#endif

/* The result of an exec(2), above 0 where seccomp has killed the call. Its registers are
 * put back as they were then, so the result's holds what it held before the call: on x86_64
 * the call's number, on arm64 the first argument, of which execveat's may also be 0 or
 * AT_FDCWD (-100). A new image has begun with nothing but zeros. */
static __always_inline long exec_result(long ret)
{
#if defined(__TARGET_ARCH_arm64)
	if (ret == 0 || ret == -100) {
		const struct pt_regs *regs = user_regs((void *)bpf_get_current_task());

		if (ret == (long)REGS_ARG1(regs) && REGS_ARG2(regs))
			return 1;
	}
#endif
	return ret;
}

/* Add, then look whether nobody else has: two that interleave may both fail, but never
 * both succeed. Fetching atomics, which would be simpler, are 5.12+ (commits 5ffa25502b5a,
 * 5ca419f2864a): the verifier of 5.10 refuses a program that has one. */
static __always_inline bool claim(u32 *busy)
{
	__sync_fetch_and_add(busy, 1);
	if (*(volatile u32 *)busy == 1)
		return true;
	__sync_fetch_and_add(busy, -1);
	return false;
}

static __always_inline void release(u32 *busy)
{
	__sync_fetch_and_add(busy, -1);
}

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

#endif
