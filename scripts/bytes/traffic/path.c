// SPDX-License-Identifier: Apache-2.0
/* TCP by other ways than read and write: sendfile, splice, zero copies, the first bytes in the SYN, the kernel's TLS. */
#include "traffic.h"

#include <linux/errqueue.h>
#include <linux/tls.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

static void just_pull(int handle, struct flow *flow)
{
	pull_all(handle, flow);
}

static void push_lot(int handle, struct flow *flow)
{
	push(handle, flow, LOT);
}

/* A file in memory of so many bytes. */
static int file_of(size_t count)
{
	int file = CHECK(memfd_create("traffic", MFD_CLOEXEC));

	while (count > 0) {
		size_t portion = count < CHUNK ? count : CHUNK;

		MUST(write(file, payload(), portion) == (ssize_t)portion);
		count -= portion;
	}
	CHECK(lseek(file, 0, SEEK_SET));
	return file;
}

static void push_file(int handle, struct flow *flow)
{
	int file = file_of(LOT * 3);

	flow->via = "sendfile";
	while (CHECK(sent(flow, sendfile(handle, file, NULL, 262139))) > 0)
		;
	close(file);
}

static void send_file(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = just_pull, .client = push_file});
}

/* Out of a pipe that was written to, and into one that is read. */

static void splice_out(int handle, struct flow *flow)
{
	size_t left = LOT * 3;
	int ends[2];

	flow->via = "splice";
	CHECK(pipe2(ends, O_CLOEXEC));
	while (left > 0) {
		size_t portion = left < 40009 ? left : 40009;

		MUST(write(ends[1], payload(), portion) == (ssize_t)portion);
		left -= portion;
		while (portion > 0)
			portion -= (size_t)CHECK(sent(flow, splice(ends[0], NULL, handle, NULL, portion, 0)));
	}
}

static void splice_in(int handle, struct flow *flow)
{
	ssize_t got;
	int ends[2];

	flow->via = "splice";
	CHECK(pipe2(ends, O_CLOEXEC));
	while ((got = CHECK(received(flow, splice(handle, NULL, ends[1], NULL, 40009, 0)))) > 0)
		while (got > 0)
			got -= CHECK(read(ends[0], room(), (size_t)got));
}

static void splices(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = splice_in, .client = splice_out});
}

/* MSG_ZEROCOPY; what it tells by the error queue is no payload. */

static void push_without_copy(int handle, struct flow *flow)
{
	int yes = 1, notices = 0;
	size_t left = LOT * 3;

	if (setsockopt(handle, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof(yes)) < 0)
		not_here("SO_ZEROCOPY");
	while (left > 0) {
		size_t portion = left < CHUNK ? left : CHUNK;
		char control[128];
		struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};
		ssize_t went = sent(flow, send(handle, payload(), portion, MSG_ZEROCOPY | MSG_NOSIGNAL));

		MUST(went > 0 || errno == ENOBUFS);
		left -= went > 0 ? (size_t)went : 0;
		if (recvmsg(handle, &message, MSG_ERRQUEUE | MSG_DONTWAIT) == 0)
			notices++;
		else if (went < 0)
			sleep_ms(1);
	}
	half_close(handle);
	for (int turn = 0; notices == 0 && turn < 2500; turn++) {
		char control[128];
		struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};

		notices += recvmsg(handle, &message, MSG_ERRQUEUE | MSG_DONTWAIT) == 0;
		sleep_ms(2);
	}
	MUST(notices > 0);
}

static void zero_copy(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = just_pull, .client = push_without_copy});
}

/* TCP_ZEROCOPY_RECEIVE maps whole pages and copies the rest into a buffer (5.11 on). */

struct zero_copy_receive {
	uint64_t address;
	uint32_t length, skip, in_queue;
	int32_t error;
	uint64_t copy;
	int32_t copy_length;
	uint32_t flags;
};

static void pull_without_copy(int handle, struct flow *flow)
{
	size_t window = 262144;
	void *area = mmap(NULL, window, PROT_READ, MAP_SHARED, handle, 0);
	struct pollfd wait = {handle, POLLIN, 0};

	if (area == MAP_FAILED)
		not_here("mmap");
	for (;;) {
		struct zero_copy_receive zc = {
			.address = (uintptr_t)area, .length = (uint32_t)window, .copy = (uintptr_t)room(), .copy_length = 7919};
		socklen_t length = sizeof(zc);
		ssize_t got;

		MUST(poll(&wait, 1, 20000) == 1);
		if (getsockopt(handle, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &zc, &length) < 0) {
			if (errno != EIO) /* the end of the stream */
				not_here("TCP_ZEROCOPY_RECEIVE");
			zc.length = zc.skip = 0;
			zc.copy_length = 0;
		}
		if (zc.copy_length < 0) {
			errno = -zc.copy_length;
			zc.copy_length = 0;
			MUST(errno == EINVAL || errno == EAGAIN || errno == EFAULT);
		}
		if (length < offsetof(struct zero_copy_receive, flags)) /* no buffer before 5.11 */
			zc.copy_length = 0;
		got = received(flow, (ssize_t)zc.length + zc.copy_length);
		if (zc.length > 0)
			CHECK(madvise(area, zc.length, MADV_DONTNEED));
		if (got == 0) {
			got = CHECK(received(flow, recv(handle, room(), zc.skip > 0 ? zc.skip % CHUNK : 1009, 0)));
			if (got == 0)
				break;
		}
	}
}

/* Segments that are whole pages: from a file, whose pages are sent as they are. */
static void push_pages(int handle, struct flow *flow)
{
	int file = file_of(LOT * 3);

	flow->via = "sendfile";
	while (CHECK(sent(flow, sendfile(handle, file, NULL, 262144))) > 0)
		;
	close(file);
}

static void zero_copy_in(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_without_copy, .client = push_pages});
}

/* TCP Fast Open: the first bytes go with the SYN, without a cookie (tcp_fastopen of net/ipv4, in each namespace). */

#define FAST_OPEN "519" /* client, server, either without a cookie */
#define SYN_BYTES 1009

static void take_fast(int listener)
{
	int length = 7;

	write_file("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN);
	CHECK(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN, &length, sizeof(length)));
}

static ssize_t in_syn;

static int connect_fast(const struct address *to)
{
	int handle = any_socket(to, SOCK_STREAM, IPPROTO_TCP);

	write_file("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN);
	in_syn = CHECK(sendto(handle, payload(), SYN_BYTES, MSG_FASTOPEN | MSG_NOSIGNAL,
			      (const struct sockaddr *)&to->storage, to->length));
	return handle;
}

static void push_after_syn(int handle, struct flow *flow)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	sent(flow, in_syn);
	push(handle, flow, 20011);
	half_close(handle);
	pull_all(handle, flow);
	CHECK(getsockopt(handle, IPPROTO_TCP, TCP_INFO, &info, &length));
	MUST(info.tcpi_options & 32); /* TCPI_OPT_SYN_DATA: it really went with the SYN */
}

static void fast_open(void)
{
	run_pair(&(struct pair){
		FAR, NEAR, FAR_IP, .server = just_pull, .client = push_after_syn, .prepare = take_fast, .connect = connect_fast});
}

/* The kernel's TLS, with keys that both know. */

static struct message keyed;

static void encrypt(int handle)
{
	struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = {.version = TLS_1_2_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128},
		.key = "not a secret",
		.iv = "1234567",
		.salt = "123",
	};

	if (setsockopt(handle, IPPROTO_TCP, TCP_ULP, "tls", 3) < 0)
		not_here("TCP_ULP tls");
	if (setsockopt(handle, SOL_TLS, TLS_TX, &keys, sizeof(keys)) < 0 ||
	    setsockopt(handle, SOL_TLS, TLS_RX, &keys, sizeof(keys)) < 0)
		not_here("TLS_TX");
}

static void pull_encrypted(int handle, struct flow *flow)
{
	encrypt(handle);
	tell(keyed, 1);
	pull(handle, flow, LOT);
	push(handle, flow, 20011);
}

static void push_encrypted(int handle, struct flow *flow)
{
	encrypt(handle);
	hear(keyed);
	push(handle, flow, LOT);
	pull(handle, flow, 20011);
}

static void tls(void)
{
	keyed = new_message();
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_encrypted, .client = push_encrypted});
}

/* Bytes that are sent out of band are received by a flag of their own, or in line. */

static void push_urgent(int handle, struct flow *flow)
{
	push(handle, flow, 10007);
	CHECK(sent(flow, send(handle, "!", 1, MSG_OOB | MSG_NOSIGNAL)));
	push(handle, flow, 10007);
}

static void pull_in_line(int handle, struct flow *flow)
{
	int yes = 1;

	CHECK(setsockopt(handle, SOL_SOCKET, SO_OOBINLINE, &yes, sizeof(yes)));
	pull_all(handle, flow);
}

static void urgent(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = pull_in_line, .client = push_urgent});
}

/* MSG_TRUNC drops what it counts. */

static void drop_all(int handle, struct flow *flow)
{
	while (CHECK(received(flow, recv(handle, NULL, 30011, MSG_TRUNC))) > 0)
		;
}

static void dropped(void)
{
	run_pair(&(struct pair){FAR, NEAR, FAR_IP, .server = drop_all, .client = push_lot});
}

const struct row path_rows[] = {
	{"sendfile", "a file, by sendfile", send_file},
	{"splice", "out of a pipe and into one, by splice", splices},
	{"zerocopy", "MSG_ZEROCOPY, its notices read from the error queue", zero_copy},
	{"zerocopy-receive", "TCP_ZEROCOPY_RECEIVE", zero_copy_in},
	{"fast-open", "the first bytes in the SYN", fast_open},
	{"ktls", "encrypted by the kernel", tls},
	{"urgent", "a byte out of band, read in line", urgent},
	{"dropped", "thrown away by MSG_TRUNC", dropped},
	{0},
};
