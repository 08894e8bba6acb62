/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire contract between the probes and user space: the record header, one
 * struct per record kind, the knobs and the counters.
 *
 * tracer/probes/records.py holds the same layouts as struct formats; a test
 * compiles this file and compares the two by BTF, so neither can drift alone.
 * Every struct is naturally aligned and has no implicit padding.
 */
#ifndef TRACER_H
#define TRACER_H

#define WIRE_VERSION 3

enum kind {
	KIND_EXEC = 0,
	KIND_EXEC_FAILED = 1,
	KIND_FORK = 2,
	KIND_EXIT = 3,
	KIND_CONNECT = 4,
	KIND_ATTEMPT = 5,	/* a connect still pending after ATTEMPT_AFTER_NS */
	KIND_ACCEPT = 6,
	KIND_LISTEN = 7,
	KIND_CLOSE = 8,
	KIND_FLOW = 9,		/* a part of a socket without connections has moved its first datagram */
	KIND_FLOW_END = 10,	/* the socket of such parts is closed */
	KIND_OWNER = 11,	/* another process moves bytes of a connection */
	KIND_TAIL = 12,		/* what a process still moved after its connection's CLOSE */
	KIND_PAYLOAD = 13,	/* the first bytes of a flow */
	KINDS = 14,
	/* Only from the iterators, never in a ring. */
	KIND_PROCESS_FOUND = 14,
	KIND_SOCKET_FOUND = 15,
	/* Only made by user space. */
	KIND_UPDATE = 16,
	KIND_AGGREGATE = 17,
	/* Only between the loader and an iterator. */
	KIND_TRACER_FOUND = 18,
};

enum ring {
	RING_LIFECYCLE = 0,	/* processes: must never be pushed out by chatter */
	RING_BULK = 1,		/* sockets */
	RINGS = 2,
};

/* A SYN is sent again after 1 s and 3 s (tcp_syn_linear_timeouts since 6.5: every
 * second); the first retransmission at or after this age reports the attempt. */
#define ATTEMPT_AFTER_NS 2900000000ULL

#define COMM_LEN 16
#define NAME_LEN 256		/* one path component with its NUL (NAME_MAX + 1) */
#define PATH_BYTES 4096		/* all components of one path */
#define PATH_DEPTH 36		/* components and mounts of one path */
#define ARGS_BYTES 12288
#define FILE_BYTES 1024		/* the requested file name, and the interpreter's */
#define CGROUP_BYTES 1024	/* all components of a control group's path */
#define CGROUP_DEPTH 24		/* and how many */
#define EXEC_DATA (PATH_BYTES * 2 + FILE_BYTES * 2 + CGROUP_BYTES + ARGS_BYTES + NAME_LEN)
#define FAILED_ARGS 32		/* arguments read of an exec that failed */

/* Numbers are given out by levels: one for the probe that came first, others for whatever
 * interrupts it while it takes its number. In each level a gap is loss, whatever the order. */
#define LEVELS 4
#define SEQ_LEVEL_SHIFT 62

struct header {
	u64 time;		/* CLOCK_BOOTTIME, ns */
	u64 seq;		/* per (cpu, ring): level << SEQ_LEVEL_SHIFT | number in that level */
	u64 start;		/* start_boottime of the process (its leader), ns */
	u32 tgid;		/* in the initial pid namespace */
	u32 tid;
	u16 cpu;
	u8 kind;
	u8 ring;
	u32 flags;		/* enum record_flag */
};

enum record_flag {
	FLAG_TRUNCATED_EXE = 1 << 0,
	FLAG_TRUNCATED_CWD = 1 << 1,
	FLAG_TRUNCATED_ARGS = 1 << 2,
	FLAG_TRUNCATED_FILE = 1 << 3,
	FLAG_FAULT_ARGS = 1 << 4,	/* the argument pages could not be read */
	FLAG_DELETED = 1 << 5,		/* the executable has no name any more (i_nlink 0) */
	FLAG_SCRIPT = 1 << 6,		/* filename is a script, interp its interpreter */
	FLAG_EXECFD = 1 << 7,		/* executed through a descriptor */
	FLAG_CORE = 1 << 8,		/* core dumped */
	FLAG_SECCOMP_KILLED = 1 << 9,	/* the exec call was killed by seccomp */
	FLAG_KTHREAD = 1 << 10,
	FLAG_DETACHED = 1 << 11,	/* the executable is on no mount (memfd) */
	/* Only from backends without probes. */
	FLAG_BY_COOKIE = 1 << 12,	/* the owner was found by the socket's cookie */
	FLAG_BY_INODE = 1 << 13,	/* ... by the inode of a descriptor that was open when it was looked at */
	FLAG_APPROXIMATE = 1 << 14,	/* times, and order, are those of the look that found it */
	FLAG_NO_STATUS = 1 << 15,	/* the status of the exit is unknown */
	FLAG_NO_TOTALS = 1 << 16,	/* bytes, retransmits, rtt and backlog of the socket are unknown */
	FLAG_NO_PROGRAM = 1 << 17,	/* what it ran when it ended is unknown */
	/* Of the control group in an exec record. */
	FLAG_TRUNCATED_CGROUP = 1 << 18,	/* what is nearest to the root is missing */
	FLAG_CGROUP_V1 = 1 << 19,	/* it is of version 1: of version 2 the process is in the root */
	/* Only from probes. */
	FLAG_KERNEL = 1 << 20,		/* a socket of the kernel's own: no process owns it */
};

/* Who a process is; the same in every record that describes one. */
struct identity {
	u64 parent_start;	/* start_boottime of the parent's leader, ns */
	u64 cgroup;		/* id in the cgroup v2 hierarchy */
	u32 parent_tgid;
	u32 vpid;		/* pid in its own (innermost) namespace */
	u32 uid;
	u32 gid;
	u32 euid;
	u32 egid;
	u32 loginuid;		/* 0xffffffff: unset */
	u32 audit_session;	/* 0xffffffff: unset */
	u32 session;		/* session leader, initial pid namespace */
	u32 group;		/* process group leader, initial pid namespace */
	u32 netns;
	u32 pidns;
	char comm[COMM_LEN];	/* the leader's */
};

/* KIND_EXEC and KIND_PROCESS_FOUND. data: exe, cwd, filename, interp, cgroup, argv; exe, cwd
 * and cgroup as components from the leaf up, each NUL-terminated. */
struct exec_record {
	struct header h;
	struct identity id;
	u64 inode;
	u64 args_total;		/* bytes of argv as committed, before truncation */
	u32 dev;		/* kernel encoding: major << 20 | minor */
	u32 argc;
	u16 exe_len;
	u16 cwd_len;
	u16 file_len;
	u16 interp_len;
	u16 cgroup_len;
	u16 args_len;
	u32 reserved;
	char data[];
};

/* KIND_EXEC_FAILED. data: the requested file name and argv, both as user space had them. */
struct exec_failed_record {
	struct header h;
	struct identity id;
	s32 error;		/* positive errno; 0 when seccomp killed the call */
	u16 file_len;
	u16 args_len;
	char data[];
};

struct fork_record {
	struct header h;	/* of the child */
	struct identity id;
	u32 forker_tid;		/* the thread that called */
	u32 forker_tgid;	/* differs from parent_tgid with CLONE_PARENT */
};

struct exit_record {
	struct header h;
	struct identity id;
	u64 cpu_ns;		/* of all threads */
	u64 max_rss;		/* pages */
	u32 status;		/* as wait(2) gives it */
	u32 reserved;
};

enum role {
	ROLE_NONE = 0,
	ROLE_CONNECT = 1,
	ROLE_ACCEPT = 2,
	ROLE_LISTEN = 3,
	ROLE_SENT = 4,		/* no connection: the first datagram went out */
	ROLE_RECEIVED = 5,	/* ... came in */
};

/* How bytes were moved. */
enum via {
	VIA_SYSCALL = 1 << 0,
	VIA_IO_URING = 1 << 1,
	VIA_SENDFILE = 1 << 2,
	VIA_SPLICE = 1 << 3,
	VIA_PACKET = 1 << 4,	/* a packet socket: below the network's protocols */
};

enum socket_flag {
	SOCK_SNAPSHOT = 1 << 0,		/* was there before the probes */
	SOCK_IN_CONNECT = 1 << 1,	/* its connect(2) has not returned */
	SOCK_EARLY = 1 << 1,		/* of an accepted one: its handshake was not over by then */
	SOCK_REPORTED = 1 << 2,		/* the connect's outcome was emitted */
	SOCK_DEFERRED = 1 << 3,		/* failed without sk_err: the errno comes with sys_exit */
	SOCK_ESTABLISHED = 1 << 4,
	SOCK_CLOSED = 1 << 5,		/* closed before it was accepted */
	SOCK_SEND_TIMEOUT = 1 << 6,	/* a blocking connect gave up by SO_SNDTIMEO */
	SOCK_ATTEMPTED = 1 << 7,
};

/* KIND_CONNECT, KIND_ATTEMPT, KIND_ACCEPT, KIND_LISTEN, KIND_CLOSE, KIND_FLOW, KIND_FLOW_END,
 * KIND_OWNER, KIND_TAIL, KIND_SOCKET_FOUND */
struct socket_record {
	struct header h;	/* of the owner; tgid 0: no process owned it */
	u64 flow;		/* unique while the system is up */
	u64 opened;		/* boottime ns of the SYN, or of the passive establishment; 0 unknown */
	u64 established;	/* boottime ns; 0: never or unknown */
	u64 sent;		/* stream bytes, without retransmissions */
	u64 received;
	u64 cgroup;
	u32 retransmits;	/* segments */
	u32 rtt_us;		/* smoothed */
	u32 netns;
	u32 uid;
	u32 error;		/* errno */
	u32 backlog;
	u16 sport;		/* host order */
	u16 dport;
	u8 family;
	u8 role;
	u8 state;		/* the kernel's, before this event */
	u8 sock_flags;
	u8 saddr[16];		/* IPv4 as ::ffff:a.b.c.d */
	u8 daddr[16];
	char comm[COMM_LEN];
	u64 socket;		/* the socket's own number: all parts of one have the same */
	u64 moved_out;		/* bytes, as the calls returned */
	u64 moved_in;
	u64 calls_out;		/* datagrams, or calls */
	u64 calls_in;
	u32 slot;		/* where its struct part is, + 1; 0: it has none (any more) */
	u16 protocol;		/* IPPROTO_; of a packet socket 0 */
	u8 type;		/* SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3, SOCK_SEQPACKET 5 */
	u8 via;			/* enum via */
};

enum direction { DIRECTION_OUT = 1, DIRECTION_IN = 2 };

#define FIRST_BYTES 4096	/* of a stream, and of any one message */
#define FIRST_SEGMENTS 4
#define FIRST_INITIALS 3

/* KIND_PAYLOAD. data: what lies in front of it in the packet, IP's header first, then the first bytes
 * of what it carries. Those of a stream are told in order, each once. */
struct payload_record {
	struct header h;	/* of the owner; tgid 0: not known here */
	u64 flow;		/* of a connection, as in socket_record, else the socket's number there; 0: not known */
	u64 cookie;		/* the kernel's number of the socket (SO_COOKIE); of a listener, before accept */
	u64 cgroup;
	u32 netns;
	u32 uid;
	u32 offset;		/* in the stream; of a datagram 0 */
	u32 length;		/* of all that it carries, bytes */
	u16 sport;		/* host order; s: this end */
	u16 dport;
	u8 family;
	u8 protocol;		/* IPPROTO_TCP or IPPROTO_UDP */
	u8 direction;		/* enum direction */
	u8 segment;		/* of a flow, from 0 */
	u16 header_len;
	u16 data_len;
	u32 reserved;
	u8 saddr[16];		/* IPv4 as ::ffff:a.b.c.d */
	u8 daddr[16];
	char comm[COMM_LEN];
	char data[];
};

/* What one process has moved through one socket, to one peer: an element of `parts`, mapped
 * read-only by user space. The counters are only ever added to while `flow` stays the same. */
struct part {
	u64 flow;		/* 0: free */
	u64 start;		/* of the process, start_boottime, ns */
	u64 moved_out;
	u64 moved_in;
	u64 calls_out;
	u64 calls_in;
	u32 tgid;
	u32 via;		/* enum via */
	u64 socket;
};
#define PARTS 65536		/* a power of two */

/* All bytes that were moved, for the proof that none are missing: one per CPU, mapped likewise. */
struct moved {
	u64 bytes;
	u64 unplaced;		/* of them: there was no part to add them to */
	u64 filtered;		/* of those whose part has ended: its record was filtered */
	u64 lost;		/* ... could not be emitted */
};

/* One per (cpu, kind), mapped read-only by user space; only ever added to. */
struct tally {
	u64 attempts;
	u64 filtered;
	u64 emitted;
	u64 failed;		/* the ring or its absence refused it, or there was no slot */
	u64 no_space;		/* of failed: ENOSPC, the ring was full */
	u64 no_ring;		/* of failed: any other error, this CPU has no ring that runs */
	u64 no_slot;		/* of failed: no scratch slot or no level, so no sequence number either */
	u64 failed_first;	/* boottime ns, of the newest burst of failures */
	u64 failed_last;
	u64 truncated;
	u64 map_full;		/* state that did not fit: what depends on it is missing */
	u64 collapsed;		/* beyond the budget of who did it: counted in `floods` instead */
};

/* What is told by no record of its own, as it was beyond a budget: an element of `floods`, mapped read-only by user
 * space. `count` is only ever added to while `began` stays the same. */
struct flood {
	u64 began;		/* boottime ns; 0: this place is free, or being given to another */
	u64 last;		/* boottime ns of the newest */
	u64 count;
	u64 hash;		/* of what tells it from others */
	u64 cgroup;
	u64 inode;		/* of the executable, with dev; where dev is 0 only the name is known */
	u64 start;		/* of the first process, as the name is */
	u32 dev;		/* kernel encoding: major << 20 | minor */
	u32 uid;
	u32 kind;
	u32 busy;
	u32 ready;		/* all of it is written */
	u32 tgid;
	char comm[COMM_LEN];
};
#define FLOODS 1024		/* a power of two */

/* That a process has executed something, or has ended, and that this was collapsed: an element of `unseen`, mapped
 * likewise, first those for execs, then those for exits. */
struct unseen {
	u64 start;		/* of the process, start_boottime, ns */
	u64 time;
	u32 tgid;
	u32 changes;		/* two for each; odd while it is being written */
};
#define UNSEEN 8192		/* of each; a power of two */

/* What a packet is, where no process is known to have its socket, or even has one. */
enum wire_kind {
	WIRE_OWNED = 0,
	WIRE_SOCKET = 1,	/* a socket, the kernel's or of somebody who is not known, or not yet */
	WIRE_ARP = 2,
	WIRE_ND = 3,		/* ICMPv6 neighbour discovery */
	WIRE_ICMP = 4,		/* that the kernel answers or sends */
	WIRE_RST = 5,
	WIRE_FORWARDED = 6,
	WIRE_FRAGMENT = 7,	/* of a packet that no socket got */
	WIRE_OTHER = 8,
	WIRE_KINDS = 9,
};

#define DEVICES 4096

/* One per network device, mapped read-only by user space: bytes with the headers of the link. */
struct device_bytes {
	u32 netns;		/* inode; 0: none yet */
	u32 index;
	u64 out[WIRE_KINDS];
	u64 in[WIRE_KINDS];
	u64 more_out;		/* headers that come on top if the device cuts what it is given */
	u64 more_in;		/* ... that were cut off where packets were put together */
	u32 taken;
	u32 reserved;
};

enum knob_filter {
	FILTER_PID = 1 << 0,
	FILTER_UID = 1 << 1,
	FILTER_NETNS = 1 << 2,
	FILTER_PORT = 1 << 3,
	FILTER_CIDR = 1 << 4,
	FILTER_FOLLOW = 1 << 5,	/* children of a filtered pid come too */
};

/* Set before load, constant for the verifier: an unused filter costs nothing. */
struct knobs {
	u32 filters;		/* enum knob_filter */
	u32 kinds;		/* bit per kind that is wanted */
	u32 preemptible;	/* tracepoints are: each probe has a stand-in */
	u32 flood_ns;		/* between two records of one user in one control group; 0: as many as they like */
};

#endif
