"""A process that waits to be told, makes an exactly known number of records, and stays.

`load.py executions|connections N` reads one line, does the work, prints what it did as one JSON object (ledger kind ->
records) and ends with its stdin.
"""

import json
import os
import socket
import struct
import sys

# A shell that runs a program and stays for a last command of its own: two processes, one the other's child.
SHELL = ("/bin/sh", "-c", "/bin/true; :")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close resets, so that no port is held in TIME_WAIT


def executions(count: int) -> dict[str, int]:
    """Runs a shell that runs a program `count` times, one after the other."""
    for _ in range(count):
        pid = os.posix_spawn(SHELL[0], SHELL, {})
        _, status = os.waitpid(pid, 0)
        assert status == 0
    return {"fork": 2 * count, "exec": 2 * count, "exit": 2 * count}


def connections(count: int) -> dict[str, int]:
    """Connects to itself `count` times; both ends are closed each time, the listening socket never is."""
    listener = socket.create_server(("127.0.0.1", 0))
    for _ in range(count):
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        server, _ = listener.accept()
        client.close()
        server.close()
    listener.detach()
    return {"listen": 1, "connect": count, "accept": count, "close": 2 * count}


if __name__ == "__main__":
    work = {"executions": executions, "connections": connections}[sys.argv[1]]
    sys.stdin.readline()
    print(json.dumps(work(int(sys.argv[2]))), flush=True)
    sys.stdin.read()
