/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel types and fields that the probes read, and no others. Each struct is
 * relocated by CO-RE at load: only names and types matter, not order or size.
 */
#ifndef KERNEL_H
#define KERNEL_H

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef signed short s16;
typedef unsigned int u32;
typedef signed int s32;
typedef unsigned long long u64;
typedef signed long long s64;
typedef u8 __u8;
typedef s8 __s8;
typedef u16 __u16;
typedef s16 __s16;
typedef u32 __u32;
typedef s32 __s32;
typedef u64 __u64;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u64 __be64;
typedef u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* uapi constants */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_F_NO_PREALLOC = 1 << 0, BPF_F_MMAPABLE = 1 << 10 };
#define BPF_F_CURRENT_CPU 0xffffffffULL
#define BPF_RB_NO_WAKEUP 1

#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define AF_VSOCK 40
#define IPPROTO_IP 0
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_UDPLITE 136
#define IPPROTO_SCTP 132
#define IPPROTO_MPTCP 262
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000
#define SOCK_STREAM 1
#define SOCK_RAW 3
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define PF_IO_WORKER 0x00000010
#define O_NONBLOCK 04000
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 0x00000004
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define ENOENT 2
#define EAGAIN 11
#define ENOSPC 28
#define EISCONN 106
#define EALREADY 114
#define EINPROGRESS 115
#define ECONNABORTED 103
#define ECONNRESET 104
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define SOCK_DEAD 0			/* bit of skc_flags: no file leads to it any more */
#define SOCK_DONE 1			/* bit of skc_flags: a FIN has come */
#define ANON_INODE_FS_MAGIC 0x09041934

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct { int counter; } atomic_t;
typedef struct { u32 val; } kuid_t;
typedef struct { u32 val; } kgid_t;

struct ns_common { unsigned int inum; };
struct net { struct ns_common ns; };
struct pid_namespace { struct ns_common ns; };
struct nsproxy { struct net *net_ns; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { unsigned int level; struct upid numbers[1]; };

struct qstr { u32 len; const unsigned char *name; };
struct super_block { u32 s_dev; unsigned long s_magic; };
struct inode { u16 i_mode; struct super_block *i_sb; unsigned long i_ino; unsigned int i_nlink; };
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; };
struct vfsmount { struct dentry *mnt_root; };
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct file { struct path f_path; struct inode *f_inode; void *private_data; unsigned int f_flags; };
struct fdtable { unsigned int max_fds; struct file **fd; };
struct files_struct { struct fdtable *fdt; };
struct fs_struct { struct path pwd; };

struct mm_struct { unsigned long arg_start; unsigned long arg_end; struct file *exe_file; };
struct cred { kuid_t uid; kgid_t gid; kuid_t euid; kgid_t egid; };
struct kernfs_node { struct kernfs_node *parent; const char *name; u64 id; };
struct cgroup { struct kernfs_node *kn; };
struct cgroup_subsys_state { struct cgroup *cgroup; };
struct css_set { struct cgroup_subsys_state *subsys[1]; struct cgroup *dfl_cgrp; };	/* one a controller */

struct signal_struct {
	atomic_t live;
	int nr_threads;
	unsigned int flags;
	int group_exit_code;
	struct pid *pids[4];		/* PIDTYPE_PID, TGID, PGID, SID */
	unsigned long maxrss;
	u64 sum_sched_runtime;
};
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
struct sched_entity { u64 sum_exec_runtime; };

struct thread_info { unsigned long flags; u32 status; };	/* status on x86 alone */
#if defined(__TARGET_ARCH_x86)
#define TS_COMPAT 2			/* of status: in a system call of 32 bits */
#elif defined(__TARGET_ARCH_arm64)
#define TIF_32BIT 22			/* bit of flags: a process of 32 bits */
#endif

struct list_head { struct list_head *next, *prev; };

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int exit_state;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	u64 start_boottime;		/* real_start_time before 5.5 */
	const struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct css_set *cgroups;
	struct sched_entity se;
	kuid_t loginuid;
	unsigned int sessionid;
	u64 self_exec_id;
	void *stack;
	struct vm_struct *stack_vm_area;	/* with CONFIG_VMAP_STACK */
};
struct vm_struct { unsigned long size; unsigned int nr_pages; };

struct linux_binprm {
	struct file *file;
	int argc;
	const char *filename;
	const char *interp;
	const char *fdpath;		/* since 5.18; before it the name starts with /dev/fd/ */
};

typedef struct { struct net *net; } possible_net_t;
struct in6_addr { union { u8 u6_addr8[16]; u32 u6_addr32[4]; } in6_u; };
struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;			/* network order */
	u16 skc_num;			/* host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct socket;
typedef struct { int owned; } socket_lock_t;
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;		/* a u16 of its own since 5.6, a bit field before */
	u16 sk_type;
	socket_lock_t sk_lock;
	int sk_err;
	u32 sk_max_ack_backlog;
	struct socket *sk_socket;
};
struct inet_sock { u16 inet_sport; };
struct tcp_ulp_ops;
struct inet_connection_sock { struct inet_sock icsk_inet; const struct tcp_ulp_ops *icsk_ulp_ops; };
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u64 bytes_received;
	u64 bytes_sent;
	u64 bytes_retrans;
	u32 rcv_nxt;
	u32 snd_nxt;
	u32 copied_seq;
	u32 srtt_us;			/* in eighths */
	u32 total_retrans;
};
struct socket { struct file *file; struct sock *sk; };
struct proto_accept_arg { bool kern; };
struct bpf_tramp_image { u64 size; };
struct sk_buff {
	unsigned int len;
	u16 protocol;			/* network order */
	u16 network_header;
	u16 transport_header;
	unsigned char *head;
	struct sock *sk;
};
struct iphdr { u8 protocol; u16 frag_off; u32 saddr; u32 daddr; };
struct ipv6hdr { u8 nexthdr; struct in6_addr saddr; struct in6_addr daddr; };

struct io_kiocb { u8 opcode; };
struct io_accept { u32 file_slot; };	/* what the request begins with */
#define IORING_OP_ACCEPT 13
struct bpf_map { char name[16]; };
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; u64 session_id; u64 seq_num; };
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; };
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

struct trace_entry { int pid; };
struct trace_event_raw_sys_exit { struct trace_entry ent; long id; long ret; };
struct trace_event_raw_sched_process_exec { struct trace_entry ent; u32 __data_loc_filename; int old_pid; };
struct trace_event_raw_sched_process_fork { struct trace_entry ent; int child_pid; };
struct trace_event_raw_io_uring_complete { struct trace_entry ent; void *req; int res; };
struct trace_event_raw_sock_msg_length { struct trace_entry ent; const void *sk; int ret; int flags; };
struct trace_event_raw_tcp_event_sk { struct trace_entry ent; const void *skaddr; };
struct trace_event_raw_net_dev_template { struct trace_entry ent; const void *skbaddr; };
struct trace_event_raw_skb_copy_datagram_iovec { struct trace_entry ent; const void *skbaddr; };
struct trace_event_raw_inet_sock_set_state { struct trace_entry ent; const void *skaddr; int oldstate; int newstate; };

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long r10;
	unsigned long ax;
	unsigned long bx;
	unsigned long cx;
	unsigned long orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs { u64 regs[31]; u64 orig_x0; s32 syscallno; };
#endif

#pragma clang attribute pop

/* What cgroup programs get, as in uapi/linux/bpf.h up to the last member that is used: the kernel rewrites each load. */
struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
	u32 protocol;
	u32 mark;
	u32 priority;
	u32 src_ip4;			/* network order, as all that follow but src_port */
	u32 src_ip6[4];
	u32 src_port;			/* host order */
	u16 dst_port;
	u16 : 16;
	u32 dst_ip4;
	u32 dst_ip6[4];
	u32 state;
};
struct bpf_sock_addr {
	u32 user_family;
	u32 user_ip4;			/* network order, as the others */
	u32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
	u32 msg_src_ip4;
	u32 msg_src_ip6[4];
	union { struct bpf_sock *sk; u64 : 64; } __attribute__((aligned(8)));
};
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;			/* network order */
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	union { struct bpf_sock *sk; u64 : 64; } __attribute__((aligned(8)));
};

#endif
