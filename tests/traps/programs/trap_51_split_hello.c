/* Trap 51: the first message of TLS names the server, and comes in pieces: of one byte or of a thousand, split within the
 * header, within the name, over two records; or it is so long (a key share of ML-KEM is 1,216 bytes) that the name lies
 * beyond the first segment. Each connection has a name of its own. */
#include "flows.h"

struct buffer {
	unsigned char bytes[8192];
	size_t length;
};

static void put(struct buffer *out, uint64_t value, int size)
{
	for (int at = size - 1; at >= 0; at--)
		out->bytes[out->length++] = (unsigned char)(value >> (8 * at));
}

static void put_bytes(struct buffer *out, const void *bytes, size_t count)
{
	memcpy(out->bytes + out->length, bytes, count);
	out->length += count;
}

/* Leaves room for a length of so many bytes, which close_length() fills in. */
static size_t open_length(struct buffer *out, int size)
{
	out->length += (size_t)size;
	return out->length;
}

static void close_length(struct buffer *out, size_t begin, int size)
{
	size_t value = out->length - begin;

	for (int at = 1; at <= size; at++, value >>= 8)
		out->bytes[begin - (size_t)at] = (unsigned char)value;
}

static void server_name(struct buffer *out, const char *name)
{
	size_t extension, list, host;

	put(out, 0, 2);
	extension = open_length(out, 2);
	list = open_length(out, 2);
	put(out, 0, 1); /* host_name */
	host = open_length(out, 2);
	put_bytes(out, name, strlen(name));
	close_length(out, host, 2);
	close_length(out, list, 2);
	close_length(out, extension, 2);
}

static void protocols(struct buffer *out)
{
	size_t extension, list;

	put(out, 16, 2);
	extension = open_length(out, 2);
	list = open_length(out, 2);
	put(out, 2, 1);
	put_bytes(out, "h2", 2);
	put(out, 8, 1);
	put_bytes(out, "http/1.1", 8);
	close_length(out, list, 2);
	close_length(out, extension, 2);
}

/* X25519MLKEM768, or X25519 alone. */
static void key_share(struct buffer *out, bool post_quantum)
{
	size_t size = post_quantum ? 1216 : 32, extension, list;

	put(out, 51, 2);
	extension = open_length(out, 2);
	list = open_length(out, 2);
	put(out, post_quantum ? 0x11ec : 0x001d, 2);
	put(out, size, 2);
	for (size_t at = 0; at < size; at++)
		put(out, at * 37 % 251, 1);
	close_length(out, list, 2);
	close_length(out, extension, 2);
}

/* A ClientHello (RFC 8446) in one record, or in two of which the first has `cut` bytes of it. */
static struct buffer hello(const char *name, bool post_quantum, bool name_last, size_t cut)
{
	struct buffer out = {.length = 5}, split = {.length = 0};
	size_t message, session, suites, extensions;

	put(&out, 1, 1);
	message = open_length(&out, 3);
	put(&out, 0x0303, 2);
	for (int at = 0; at < 32; at++)
		put(&out, (uint64_t)at * 7 + 3, 1);
	session = open_length(&out, 1);
	for (int at = 0; at < 32; at++)
		put(&out, (uint64_t)at * 11 + 5, 1);
	close_length(&out, session, 1);
	suites = open_length(&out, 2);
	put(&out, 0x0a0a, 2); /* GREASE (RFC 8701) */
	put(&out, 0x130113021303ull, 6);
	close_length(&out, suites, 2);
	put(&out, 0x0100, 2); /* no compression */
	extensions = open_length(&out, 2);
	put(&out, 0x1a1a0000, 4); /* GREASE */
	if (!name_last)
		server_name(&out, name);
	put(&out, 0x002b0003020304ull, 7); /* supported_versions: 1.3 */
	key_share(&out, post_quantum);
	protocols(&out);
	if (name_last)
		server_name(&out, name);
	close_length(&out, extensions, 2);
	close_length(&out, message, 3);
	out.bytes[0] = 22;
	out.bytes[1] = 3;
	out.bytes[2] = 1;
	close_length(&out, 5, 2);
	if (cut == 0)
		return out;
	put(&split, 0x160301, 3);
	put(&split, cut, 2);
	put_bytes(&split, out.bytes + 5, cut);
	put(&split, 0x160301, 3);
	put(&split, out.length - 5 - cut, 2);
	put_bytes(&split, out.bytes + 5 + cut, out.length - 5 - cut);
	return split;
}

struct shape {
	const char *label;
	bool post_quantum, name_last;
	size_t cut;
	size_t pieces[3]; /* where the next piece begins; 0: no more */
};

/* The header of a record is 5 bytes, that of the message 4; the name lies from 103 on, or at the end. */
static const struct shape shapes[] = {
	{"whole", false, false, 0, {0}},
	{"in-header", false, false, 0, {3}},
	{"one-byte", false, false, 0, {1}},
	{"in-name", false, false, 0, {110}},
	{"in-three", false, false, 0, {7, 108}},
	{"in-four", false, false, 0, {5, 9, 111}},
	{"post-quantum", true, false, 0, {0}},
	{"post-quantum-split", true, false, 0, {1200}},
	{"name-beyond", true, true, 0, {1200}},
	{"name-beyond-split", true, true, 0, {700, 1375}},
	{"two-records", false, false, 105, {0}},
	{"two-records-split", true, true, 1000, {1005}},
};

static void server(int listener, const char *label, size_t count)
{
	struct moved moved = {0};
	struct ends ends;
	static char block[8192];
	int handle = tcp_accept(listener, label);

	ends = ends_of(handle);
	while (moved.received < count)
		count_received(&moved, recv(handle, block, sizeof(block), 0));
	count_sent(&moved, send(handle, "\x15\x03\x03\x00\x02\x02\x28", 7, 0)); /* an alert: handshake_failure */
	drain(handle, &moved);
	say_flow(label, "tcp", &ends, &moved, "syscall", false);
	close(handle);
	_exit(0);
}

static void one(const struct shape *shape, const char *ip)
{
	char name[128];
	struct buffer out;
	int listener = tcp_listener(ip, 0, 5), yes = 1, handle;
	struct moved moved = {0};
	struct ends ends;
	size_t at = 0;
	pid_t pid;

	snprintf(name, sizeof(name), "%s.trap-51.example", shape->label);
	out = hello(name, shape->post_quantum, shape->name_last, shape->cut);
	pid = spawn();
	if (pid == 0)
		server(listener, shape->label, out.length);
	handle = tcp_connect(ip, local_port(listener), shape->label);
	ends = ends_of(handle);
	CHECK(setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
	for (int piece = 0; at < out.length; piece++) {
		size_t end = piece < 3 && shape->pieces[piece] ? shape->pieces[piece] : out.length;

		MUST(end > at && end <= out.length);
		MUST(count_sent(&moved, send(handle, out.bytes + at, end - at, 0)) == (ssize_t)(end - at));
		at = end;
		if (end == out.length)
			break;
		sleep_ms(20); /* each piece is a segment of its own, and the server reads it as such */
	}
	say("{\"what\":\"hello\",\"label\":\"%s\",\"pid\":%d,\"server\":%d,\"name\":\"%s\",\"protocols\":[\"h2\",\"http/1.1\"]"
	    ",\"local_port\":%u,\"remote_port\":%u,\"netns\":%" PRIu64 ",\"bytes\":%zu}",
	    shape->label, getpid(), pid, name, local_port(handle), remote_port(handle), namespace_inode("net"), out.length);
	while (moved.received < 7) {
		char alert[7];

		count_received(&moved, recv(handle, alert, sizeof(alert), 0));
	}
	say_flow(shape->label, "tcp", &ends, &moved, "syscall", true);
	close(handle);
	wait_success(pid);
	close(listener);
}

int main(void)
{
	start_truth();
	own_netns();
	for (unsigned index = 0; index < sizeof(shapes) / sizeof(*shapes); index++)
		one(&shapes[index], index % 2 ? "::1" : LOOPBACK);
	return 0;
}
