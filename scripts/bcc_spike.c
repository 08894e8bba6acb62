// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * One exec probe for two loaders: BCC with the running kernel's headers, and clang with
 * libbpf. Everything that differs is in the macros; what follows them is common.
 */
#ifdef TRACER_BCC
/* BCC 0.26 brings a linux/bpf.h of its own, which lacks what kernel headers newer than
 * it want to know the sizes of. The contents don't matter: no probe holds one. */
#ifdef BCC_LACKS_UAPI
#include <linux/types.h>
struct bpf_wq { __u64 opaque[2]; };
struct bpf_rb_root { __u64 opaque[2]; };
struct bpf_rb_node { __u64 opaque[4]; };
struct bpf_refcount { __u32 opaque[1]; };
#endif
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/fs.h>
#include <linux/binfmts.h>
#include <linux/nsproxy.h>
#include <net/net_namespace.h>

/* BCC places functions by itself, and refuses sections that it does not know. */
#undef SEC
#define SEC(name)
#define LICENSE(text)
#define MAP_TYPE(name, kind, entries, value)
/* Maps are made by user space: FD_name is a descriptor, given with -D. No name of a map
 * is left in the C, so nothing depends on what BCC rewrites, and headers may use maps. */
#define MAP(name) ((void *)bpf_pseudo_fd(1, FD_##name))

#define READ1(from, a) ({ \
	__typeof__((from)->a) value_; \
	bpf_probe_read_kernel(&value_, sizeof(value_), (void *)&(from)->a); \
	value_; })
#define READ2(from, a, b) READ1(READ1(from, a), b)
#define READ3(from, a, b, c) READ1(READ2(from, a, b), c)
#define READ4(from, a, b, c, d) READ1(READ3(from, a, b, c), d)
#define READ_OF(_1, _2, _3, _4, N, ...) N
#define READ(from, ...) READ_OF(__VA_ARGS__, READ4, READ3, READ2, READ1)(from, __VA_ARGS__)

#else
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
struct bpf_raw_tracepoint_args { u64 args[0]; };
#define LICENSE(text) char LICENSE_TEXT[] SEC("license") = text
#define MAP_TYPE(name, kind, entries, content) struct { \
	__uint(type, kind); \
	__uint(max_entries, entries); \
	__type(key, u32); \
	__type(value, content); \
} name SEC(".maps")
#define MAP(name) ((void *)&(name))
#define READ(from, ...) BPF_CORE_READ(from, __VA_ARGS__)
#endif

#define RAW_TP(name) SEC("raw_tp/" #name) int on_##name(struct bpf_raw_tracepoint_args *ctx)
#define ARG(number) ((void *)ctx->args[number])

#include "tracer.h"

LICENSE("Dual BSD/GPL");

#define FILE_MAX 256

struct record {
	struct header h;
	u64 inode;
	u32 dev;
	u32 netns;
	u32 parent_tgid;
	u16 file_len;
	u16 args_len;
	char comm[COMM_LEN];
	char file[FILE_MAX];
	char args[FILE_MAX];
};

/* The one record that is being written on a CPU, and the number of the next. */
struct slot {
	u32 busy;
	u32 reserved;
	u64 next;
	struct record record;
};
#ifdef TRACER_BCC
_Static_assert(sizeof(struct slot) == SLOT_BYTES, "the size that the map was made with");
#endif

MAP_TYPE(events, BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, u32);
MAP_TYPE(slots, BPF_MAP_TYPE_PERCPU_ARRAY, 1, struct slot);

/* Fetching atomics are 5.12+, and BCC's code generator has none of 32 bits. Adding is
 * enough: of two that interleave here both may fail, but never both succeed. */
static __always_inline bool claim(u32 *busy)
{
	__sync_fetch_and_add(busy, 1);
	if (*(volatile u32 *)busy == 1)
		return true;
	__sync_fetch_and_add(busy, -1);
	return false;
}

RAW_TP(sched_process_exec)
{
	struct task_struct *task = ARG(0);
	struct linux_binprm *bprm = ARG(2);
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct record *r;
	struct slot *slot;
	unsigned long from;
	u32 zero = 0;
	u64 size;
	long n;

	slot = bpf_map_lookup_elem(MAP(slots), &zero);
	if (!slot || !claim(&slot->busy))
		return 0;
	r = &slot->record;
	r->h.time = bpf_ktime_get_boot_ns();
	r->h.start = READ(task, group_leader, start_boottime);
	r->h.tgid = tgid;
	r->h.tid = (u32)(unsigned long)ARG(1);
	r->h.cpu = bpf_get_smp_processor_id();
	r->h.kind = KIND_EXEC;
	r->h.ring = RING_LIFECYCLE;
	r->h.flags = 0;
	r->parent_tgid = READ(task, real_parent, tgid);
	r->netns = READ(task, nsproxy, net_ns, ns.inum);
	r->inode = READ(bprm, file, f_inode, i_ino);
	r->dev = READ(bprm, file, f_inode, i_sb, s_dev);
	bpf_get_current_comm(r->comm, sizeof(r->comm));
	n = bpf_probe_read_kernel_str(r->file, FILE_MAX, READ(bprm, filename));
	r->file_len = n > 0 ? n : 0;
	from = READ(task, mm, arg_start);
	size = READ(task, mm, arg_end) - from;
	if (size > FILE_MAX)
		size = FILE_MAX;
	r->args_len = bpf_probe_read_user(r->args, size, (void *)from) ? 0 : size;
	r->h.seq = slot->next++;
	bpf_perf_event_output(ctx, MAP(events), BPF_F_CURRENT_CPU, r, sizeof(*r));
	__sync_fetch_and_add(&slot->busy, -1);
	return 0;
}
