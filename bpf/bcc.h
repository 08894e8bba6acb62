/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The second dialect: the same sources compiled by BCC on the machine that they run on,
 * with the headers of exactly its kernel. compat.h includes this instead of kernel.h and
 * libbpf's headers, and gives each macro its other meaning.
 *
 * The compiler of tracer/probes/bcc_compiler.py defines FD_name for each map (a number
 * that the loader replaces by the map's descriptor) and SYS_EXIT_RET.
 */
#ifndef TRACER_BCC_H
#define TRACER_BCC_H

#include <linux/types.h>
#ifdef BCC_LACKS_UAPI
/* BCC 0.26 brings a linux/bpf.h of its own, which lacks what the headers of 6.12 want to
 * know the sizes of. No probe holds one of these. */
struct bpf_wq { u64 opaque[2]; };
struct bpf_rb_root { u64 opaque[2]; };
struct bpf_rb_node { u64 opaque[4]; };
struct bpf_refcount { u32 opaque[1]; };
#endif
#include <linux/version.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/mount.h>
#include <linux/binfmts.h>
#include <linux/cred.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/cgroup.h>
#include <linux/kernfs.h>
#include <linux/fdtable.h>
#include <linux/tcp.h>
#include <net/sock.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>

/* Private to the kernel's fs/, so in no header; its beginning is the same since 3.3
 * (commit 7d6fec45a5131). */
struct mount {
	struct hlist_node mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

/* What a classic tracepoint hands over is described by tracefs alone: the loader has read
 * there where the result is. */
struct sys_exit_of_this_kernel {
	char before[SYS_EXIT_RET];
	long ret;
};
#define trace_event_raw_sys_exit sys_exit_of_this_kernel

/* BCC has sections of its own, and takes the license for GPL. The maps are user space's:
 * what declares them is compiled and unused. */
#undef SEC
#define SEC(name)
#define LICENSE(text)
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name

/* BPF_PSEUDO_MAP_FD and BPF_PSEUDO_MAP_VALUE: the map, and what is in its one element. */
#define MAP(name) ((void *)bpf_pseudo_fd(1, FD_##name))
#define KNOBS
#define KNOB(field) (((const volatile struct knobs *)bpf_pseudo_fd(2, FD_knobs))->field)

/* It takes no program that calls functions. */
#define FUNCTION static __always_inline

/* There is no BTF here, so every access to the kernel's memory is a call. */
#define TYPED false
#define READ1(p, a)									\
({											\
	__typeof__((p)->a) __value;							\
	bpf_probe_read_kernel((void *)&__value, sizeof(__value), &(p)->a);		\
	__value;									\
})
#define READ2(p, a, b) READ1(READ1(p, a), b)
#define READ3(p, a, b, c) READ1(READ2(p, a, b), c)
#define READ4(p, a, b, c, d) READ1(READ3(p, a, b, c), d)
#define READ_OF(_1, _2, _3, _4, chosen, ...) chosen
#define BPF_CORE_READ(p, ...) READ_OF(__VA_ARGS__, READ4, READ3, READ2, READ1)(p, __VA_ARGS__)
#define FIELD(typed, p, field) BPF_CORE_READ(p, field)
#define bpf_core_read(to, size, from) bpf_probe_read_kernel(to, size, from)
#define bpf_core_field_offset(type, field) __builtin_offsetof(type, field)
#define bpf_core_type_size(type) sizeof(type)

/* The arguments of a raw tracepoint, with their types. */
#define ARGUMENT1(ctx, ...) (void *)ctx[0]
#define ARGUMENT2(ctx, ...) ARGUMENT1(ctx), (void *)ctx[1]
#define ARGUMENT3(ctx, ...) ARGUMENT2(ctx), (void *)ctx[2]
#define ARGUMENT4(ctx, ...) ARGUMENT3(ctx), (void *)ctx[3]
#define ARGUMENTS_OF(_1, _2, _3, _4, chosen, ...) chosen
#define ARGUMENTS(ctx, ...) ARGUMENTS_OF(__VA_ARGS__, ARGUMENT4, ARGUMENT3, ARGUMENT2, ARGUMENT1)(ctx)
#undef BPF_PROG
#define BPF_PROG(name, ...)								\
name(u64 *ctx);										\
static __always_inline int typed_##name(u64 *ctx, __VA_ARGS__);				\
int name(u64 *ctx)									\
{											\
	return typed_##name(ctx, ARGUMENTS(ctx, __VA_ARGS__));				\
}											\
static __always_inline int typed_##name(u64 *ctx, __VA_ARGS__)

/* What kernels do differently, from their headers: see compat.h for each. BCC itself needs
 * 5.10 here (BPF_PROG_TEST_RUN of raw tracepoints, bpf_ktime_get_boot_ns is 5.8). */
static __always_inline u64 boot_start(const struct task_struct *task)
{
	return BPF_CORE_READ(task, start_boottime);
}

#ifndef TOP_OF_KERNEL_STACK_PADDING
#define TOP_OF_KERNEL_STACK_PADDING 0
#endif

static __always_inline const struct pt_regs *user_regs(const struct task_struct *task)
{
	return (const void *)((unsigned long)BPF_CORE_READ(task, stack) + THREAD_SIZE - TOP_OF_KERNEL_STACK_PADDING -
			      sizeof(struct pt_regs));
}

static __always_inline struct fdtable *current_fds(void)
{
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), files, fdt);
}

static __always_inline const struct kernfs_node *kernfs_parent(const struct kernfs_node *node)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	return BPF_CORE_READ(node, __parent);
#else
	return BPF_CORE_READ(node, parent);
#endif
}

/* A controller that the kernel was built without has no number, but always the same option. */
#ifdef CONFIG_CGROUP_PIDS
#define NUMBER_OF_pids pids_cgrp_id
#else
#define NUMBER_OF_pids -1
#endif
#ifdef CONFIG_MEMCG
#define NUMBER_OF_memory memory_cgrp_id
#else
#define NUMBER_OF_memory -1
#endif
#ifdef CONFIG_CGROUP_SCHED
#define NUMBER_OF_cpu cpu_cgrp_id
#else
#define NUMBER_OF_cpu -1
#endif
#ifdef CONFIG_CGROUP_DEVICE
#define NUMBER_OF_devices devices_cgrp_id
#else
#define NUMBER_OF_devices -1
#endif
#define CONTROLLED(set, controller)								\
({												\
	const struct kernfs_node *__node = NULL;						\
	if (NUMBER_OF_##controller >= 0)							\
		__node = BPF_CORE_READ(set, subsys[NUMBER_OF_##controller], cgroup, kn);	\
	__node;											\
})

static __always_inline void read_audit(const struct task_struct *task, u32 *loginuid, u32 *session)
{
#ifdef CONFIG_AUDIT
	*loginuid = BPF_CORE_READ(task, loginuid.val);
	*session = BPF_CORE_READ(task, sessionid);
#endif
}

#endif
