/* Trap 43: answers of DNS over UDP and TCP, with EDNS, compressed, in pieces; and answers that are made to break who reads
 * them: pointers that go in circles, counts that lie, messages that are cut. A process of this program is the server.
 *
 * Each "answer" line is one that is good: its question, and the addresses in it. Each "bad" line is one that is not. */
#include "flows.h"

#define PORT 53

enum { A = 1, CNAME = 5, AAAA = 28, OPT = 41 };

struct message {
	unsigned char bytes[65535];
	size_t length;
};

static void put(struct message *out, uint64_t value, int size)
{
	for (int at = size - 1; at >= 0; at--)
		out->bytes[out->length++] = (unsigned char)(value >> (8 * at));
}

static void put_name(struct message *out, const char *name)
{
	while (*name != '\0') {
		size_t label = strcspn(name, ".");

		put(out, label, 1);
		memcpy(out->bytes + out->length, name, label);
		out->length += label;
		name += label + (name[label] == '.');
	}
	put(out, 0, 1);
}

static void put_header(struct message *out, unsigned id, unsigned flags, unsigned answers, unsigned additional)
{
	out->length = 0;
	put(out, id, 2);
	put(out, flags, 2);
	put(out, 1, 2);
	put(out, answers, 2);
	put(out, 0, 2);
	put(out, additional, 2);
}

static void put_question(struct message *out, const char *name, unsigned type)
{
	put_name(out, name);
	put(out, type, 2);
	put(out, 1, 2);
}

/* An answer to the name at the given place of the message. */
static void put_record(struct message *out, unsigned name_at, unsigned type, unsigned ttl, unsigned length)
{
	put(out, 0xc000 | name_at, 2);
	put(out, type, 2);
	put(out, 1, 2);
	put(out, ttl, 4);
	put(out, length, 2);
}

static void put_address(struct message *out, const char *ip)
{
	struct address address = address_of(ip, 0);
	size_t size = strchr(ip, ':') ? 16 : 4;
	const void *from = strchr(ip, ':') ? (void *)&((struct sockaddr_in6 *)&address.storage)->sin6_addr
					   : (void *)&((struct sockaddr_in *)&address.storage)->sin_addr;

	memcpy(out->bytes + out->length, from, size);
	out->length += size;
}

static void put_edns(struct message *out)
{
	put(out, 0, 1);
	put(out, OPT, 2);
	put(out, 1232, 2);
	put(out, 0, 4);
	put(out, 0, 2);
}

/* What a question is about: the first label of its name. */
struct question {
	const char *name;
	unsigned type;
	bool by_tcp, edns;
	const char *addresses; /* of the good ones, as JSON */
	unsigned count;	       /* of addresses */
};

static const struct question good[] = {
	{"plain.trap-43.example", A, false, false, "[\"192.0.2.43\"]", 1},
	{"six.trap-43.example", AAAA, false, false, "[\"2001:db8::43\"]", 1},
	{"alias.trap-43.example", A, false, false, "[\"192.0.2.44\",\"192.0.2.45\"]", 2},
	{"edns.trap-43.example", A, false, true, "many", 61},
	{"stream.trap-43.example", A, true, true, "many", 211},
	{"none.trap-43.example", A, false, false, "[]", 0},
	{"x23456789012345678901234567890123456789012345678901234567890123."
	 "x23456789012345678901234567890123456789012345678901234567890123."
	 "x23456789012345678901234567890123456789012345678901234567890123."
	 "x234567890123456789012345678901234567890123.trap-43",
	 A, false, false, "[\"192.0.2.46\"]", 1},
};

static const char *const bad[] = {"loop", "chain", "forward", "cut", "counts", "label", "rdata", "short", "empty", "noise"};

static const char *many_addresses(unsigned count)
{
	static char text[8192];
	size_t at = (size_t)sprintf(text, "[");

	for (unsigned number = 0; number < count; number++)
		at += (size_t)sprintf(text + at, "%s\"192.0.2.%u\"", number ? "," : "", number);
	sprintf(text + at, "]");
	return text;
}

static const char *addresses_of(const struct question *question)
{
	return strcmp(question->addresses, "many") == 0 ? many_addresses(question->count) : question->addresses;
}

static void answer_well(struct message *out, unsigned id, const struct question *question)
{
	bool alias = question->count == 2;
	unsigned target;
	char text[64];

	put_header(out, id, question->count ? 0x8180 : 0x8183, question->count + alias, question->edns);
	put_question(out, question->name, question->type);
	if (alias) { /* an alias first, whose target the addresses are of */
		put_record(out, 12, CNAME, 300, 9);
		target = (unsigned)out->length;
		put(out, 6, 1);
		memcpy(out->bytes + out->length, "target", 6);
		out->length += 6;
		put(out, 0xc000 | (12 + 6), 2); /* "alias" and its length are 6 bytes: the rest of the name */
		for (int number = 44; number < 46; number++) {
			put_record(out, target, A, 60, 4);
			snprintf(text, sizeof(text), "192.0.2.%d", number);
			put_address(out, text);
		}
	} else if (question->type == AAAA) {
		put_record(out, 12, AAAA, 60, 16);
		put_address(out, "2001:db8::43");
	} else {
		for (unsigned number = 0; number < question->count; number++) {
			put_record(out, 12, A, 60, 4);
			snprintf(text, sizeof(text), "192.0.2.%u",
				 question->count > 2 ? number : strlen(question->name) > 100 ? 46 : 43);
			put_address(out, text);
		}
	}
	if (question->edns)
		put_edns(out);
}

static void answer_badly(struct message *out, unsigned id, const char *kind)
{
	char name[64];

	snprintf(name, sizeof(name), "%.40s.trap-43.example", kind);
	put_header(out, id, 0x8180, 1, 0);
	put_question(out, name, A);
	if (strcmp(kind, "loop") == 0) {
		put_record(out, (unsigned)out->length, A, 60, 4); /* points to itself */
		put_address(out, "192.0.2.66");
	} else if (strcmp(kind, "chain") == 0) {
		unsigned at = (unsigned)out->length;

		put(out, 0xc000 | (at + 2), 2); /* two that point to each other */
		put(out, 0xc000 | at, 2);
		put(out, 0x00010001, 4);
		put_address(out, "192.0.2.66");
	} else if (strcmp(kind, "forward") == 0) {
		put_record(out, 0x3fff, A, 60, 4); /* beyond the end */
		put_address(out, "192.0.2.66");
	} else if (strcmp(kind, "cut") == 0) {
		put_record(out, 12, A, 60, 4);
		put_address(out, "192.0.2.66");
		out->length -= 2;
	} else if (strcmp(kind, "counts") == 0) {
		out->bytes[6] = out->bytes[7] = 0xff; /* answers */
		out->bytes[10] = out->bytes[11] = 0xff;
	} else if (strcmp(kind, "label") == 0) {
		put(out, 63, 1); /* a label that goes on beyond the end */
		put(out, 'x', 1);
	} else if (strcmp(kind, "rdata") == 0) {
		put_record(out, 12, A, 60, 3); /* an address of three bytes */
		put(out, 0xc00002, 3);
	} else if (strcmp(kind, "short") == 0) {
		out->length = 11; /* less than a header */
	} else if (strcmp(kind, "empty") == 0) {
		out->length = 0;
	} else {
		for (size_t at = 2; at < 512; at++)
			out->bytes[at] = (unsigned char)(at * 167 + at * at % 251);
		out->length = 512;
	}
}

/* Answers the question in the message, found by its name. */
static void answer(const struct message *asked, struct message *out)
{
	char name[256];
	size_t at = 12, length = 0;
	unsigned id = (unsigned)asked->bytes[0] << 8 | asked->bytes[1];

	while (asked->bytes[at] != 0) {
		if (length)
			name[length++] = '.';
		memcpy(name + length, asked->bytes + at + 1, asked->bytes[at]);
		length += asked->bytes[at];
		at += asked->bytes[at] + 1;
	}
	name[length] = '\0';
	for (unsigned index = 0; index < sizeof(good) / sizeof(*good); index++)
		if (strcmp(name, good[index].name) == 0) {
			answer_well(out, id, &good[index]);
			return;
		}
	name[strcspn(name, ".")] = '\0';
	answer_badly(out, id, name);
}

static void serve_datagrams(int handle)
{
	static struct message asked, out;

	for (;;) {
		struct address peer = {.length = sizeof(peer.storage)};

		asked.length = (size_t)CHECK(recvfrom(handle, asked.bytes, sizeof(asked.bytes), 0,
						      (struct sockaddr *)&peer.storage, &peer.length));
		answer(&asked, &out);
		CHECK(sendto(handle, out.bytes, out.length, 0, (struct sockaddr *)&peer.storage, peer.length));
	}
}

static void receive_exactly(int handle, void *bytes, size_t count)
{
	MUST(CHECK(recv(handle, bytes, count, MSG_WAITALL)) == (ssize_t)count);
}

/* One question, whose answer goes out in three pieces, the first of which is half of its length. */
static void serve_stream(int listener)
{
	static struct message asked, out;
	int handle = CHECK(accept4(listener, NULL, NULL, SOCK_CLOEXEC)), yes = 1;
	unsigned char size[2];

	CHECK(setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
	receive_exactly(handle, size, 2);
	asked.length = (size_t)size[0] << 8 | size[1];
	receive_exactly(handle, asked.bytes, asked.length);
	answer(&asked, &out);
	size[0] = (unsigned char)(out.length >> 8);
	size[1] = (unsigned char)out.length;
	MUST(send(handle, size, 1, 0) == 1);
	sleep_ms(20);
	MUST(send(handle, size + 1, 1, 0) == 1);
	MUST(send(handle, out.bytes, 100, 0) == 100);
	sleep_ms(20);
	for (size_t at = 100; at < out.length;)
		at += (size_t)CHECK(send(handle, out.bytes + at, out.length - at, 0));
	MUST(recv(handle, size, 1, 0) == 0);
	_exit(0);
}

static void ask(struct message *out, unsigned id, const char *name, unsigned type, bool edns)
{
	put_header(out, id, 0x0100, 0, edns);
	put_question(out, name, type);
	if (edns)
		put_edns(out);
}

static void ask_well(unsigned id, const struct question *question)
{
	static struct message out, in;
	int handle;

	ask(&out, id, question->name, question->type, question->edns);
	if (question->by_tcp) {
		unsigned char size[2] = {(unsigned char)(out.length >> 8), (unsigned char)out.length};

		handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);
		connect_to(handle, LOOPBACK, PORT);
		MUST(send(handle, size, 2, MSG_MORE) == 2);
		MUST(send(handle, out.bytes, out.length, 0) == (ssize_t)out.length);
		receive_exactly(handle, size, 2);
		in.length = (size_t)size[0] << 8 | size[1];
		receive_exactly(handle, in.bytes, in.length);
	} else {
		handle = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
		connect_to(handle, LOOPBACK, PORT);
		MUST(send(handle, out.bytes, out.length, 0) == (ssize_t)out.length);
		in.length = (size_t)CHECK(recv(handle, in.bytes, sizeof(in.bytes), 0));
	}
	MUST(in.length > out.length - 11 && in.bytes[0] == out.bytes[0] && in.bytes[1] == out.bytes[1]);
	say("{\"what\":\"answer\",\"pid\":%d,\"over\":\"%s\",\"id\":%u,\"name\":\"%s\",\"type\":\"%s\",\"code\":\"%s\",\"alias\":%s"
	    ",\"addresses\":%s,\"netns\":%" PRIu64 ",\"local_port\":%u,\"length\":%zu,\"after_ns\":%" PRIu64 "}",
	    getpid(), question->by_tcp ? "tcp" : "udp", id, question->name, question->type == A ? "A" : "AAAA",
	    question->count ? "NOERROR" : "NXDOMAIN", question->count == 2 ? "true" : "false", addresses_of(question),
	    namespace_inode("net"), local_port(handle), in.length, boot_ns());
	close(handle);
}

static void ask_badly(unsigned id, const char *kind)
{
	static struct message out, in;
	int handle = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	char name[64];

	snprintf(name, sizeof(name), "%.40s.trap-43.example", kind);
	ask(&out, id, name, A, false);
	connect_to(handle, LOOPBACK, PORT);
	MUST(send(handle, out.bytes, out.length, 0) == (ssize_t)out.length);
	in.length = (size_t)CHECK(recv(handle, in.bytes, sizeof(in.bytes), 0));
	say("{\"what\":\"bad\",\"kind\":\"%s\",\"pid\":%d,\"name\":\"%s\",\"length\":%zu,\"netns\":%" PRIu64 "}", kind, getpid(),
	    name, in.length, namespace_inode("net"));
	close(handle);
}

/* Questions that are none, to a server that does not look at them. */
static void noise(int handle)
{
	static const size_t sizes[] = {0, 1, 11, 12, 13, 512, 4096};
	unsigned char block[4096];
	int from = udp_bound(LOOPBACK, 0);

	connect_to(from, LOOPBACK, local_port(handle));
	for (unsigned index = 0; index < sizeof(sizes) / sizeof(*sizes); index++) {
		memset(block, index % 2 ? 0xff : 0xc0, sizeof(block));
		MUST(send(from, block, sizes[index], 0) == (ssize_t)sizes[index]);
		MUST(recv(handle, block, sizeof(block), 0) == (ssize_t)sizes[index]);
	}
	close(from);
}

int main(void)
{
	int datagrams, listener;
	pid_t pids[2];

	start_truth();
	own_netns();
	datagrams = udp_bound(LOOPBACK, PORT);
	noise(datagrams);
	listener = tcp_bound(LOOPBACK, PORT);
	CHECK(listen(listener, 5));
	for (int which = 0; which < 2; which++) {
		pids[which] = spawn();
		if (pids[which] == 0 && which == 0)
			serve_datagrams(datagrams);
		else if (pids[which] == 0)
			serve_stream(listener);
	}
	say("{\"what\":\"server\",\"udp\":%d,\"tcp\":%d}", pids[0], pids[1]);
	for (unsigned index = 0; index < sizeof(good) / sizeof(*good); index++)
		ask_well(1000 + index, &good[index]);
	for (unsigned index = 0; index < sizeof(bad) / sizeof(*bad); index++)
		ask_badly(2000 + index, bad[index]);
	ask_well(3000, &good[0]); /* it is all still there */
	wait_success(pids[1]);
	CHECK(kill(pids[0], SIGKILL));
	MUST(WTERMSIG(wait_for(pids[0])) == SIGKILL);
	return 0;
}
