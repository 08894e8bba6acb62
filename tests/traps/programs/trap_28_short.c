/* Trap 28: processes that live a millisecond or so, execute and connect, four at a time, each to a port of its own. */
#include "trap.h"

#define PROCESSES 211
#define AT_ONCE 4

static int blip(char **arguments)
{
	int number = atoi(arguments[1]);
	struct address address = address_of(LOOPBACK, (uint16_t)atoi(arguments[2]));
	int handle = tcp_socket(LOOPBACK, SOCK_CLOEXEC);

	CHECK(connect(handle, (struct sockaddr *)&address.storage, address.length));
	send_exactly(handle, (size_t)number + 1);
	return number % 251;
}

int main(int count, char **arguments)
{
	static int listeners[PROCESSES];
	static pid_t pids[PROCESSES];
	struct rlimit files = {1024, 1024};

	if (getenv(CASE_VARIABLE) != NULL)
		return count == 3 ? blip(arguments) : 2;
	start_truth();
	CHECK(setrlimit(RLIMIT_NOFILE, &files));
	CHECK(setenv(CASE_VARIABLE, "blip", 1));
	for (int number = 0; number < PROCESSES; number++) {
		listeners[number] = tcp_bound(LOOPBACK, 0);
		CHECK(listen(listeners[number], 1));
	}
	for (int number = 0; number < PROCESSES + AT_ONCE; number++) {
		if (number < PROCESSES) {
			pids[number] = spawn();
			if (pids[number] == 0) {
				char number_text[16], port_text[16];
				char *given[] = {"blip", number_text, port_text, NULL};

				snprintf(number_text, sizeof(number_text), "%d", number);
				snprintf(port_text, sizeof(port_text), "%u", local_port(listeners[number]));
				execv(own_path(), given);
				die("execv", __LINE__);
			}
		}
		if (number >= AT_ONCE) {
			int done = number - AT_ONCE,
			    accepted = CHECK(accept4(listeners[done], NULL, NULL, SOCK_CLOEXEC)), status;
			uint16_t peer = remote_port(accepted);

			MUST(receive_all(accepted) == (size_t)done + 1);
			close(accepted);
			status = wait_for(pids[done]);
			MUST(WEXITSTATUS(status) == done % 251);
			say("{\"what\":\"blip\",\"number\":%d,\"pid\":%d,\"local_port\":%u,\"remote_port\":%u"
			    ",\"status\":%d,\"gone_ns\":%" PRIu64 "}",
			    done, pids[done], peer, local_port(listeners[done]), status, boot_ns());
			close(listeners[done]);
		}
	}
	return 0;
}
