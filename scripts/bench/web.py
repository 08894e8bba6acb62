"""A web server under load, as one program: nginx with two workers, and ab.

Prints a line of JSON: the process that asked, and how long it took in ns, without the start of the server.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

_CONNECTIONS: Final = 8
_READY_WITHIN_S: Final = 10.0
_CONFIG: Final = """
daemon off; master_process on; worker_processes 2; pid {directory}/pid; error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{page}"; }} }}
}}
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _ready(port: int) -> bool:
    end = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            time.sleep(0.01)
    return False


def main(requests: int) -> int:
    """Ask for ``requests`` pages over connections that are kept; 1 where that can't be done."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    asker = shutil.which("ab")
    if nginx is None or asker is None:
        print("nginx or ab is missing: on Debian and Ubuntu, apt-get install nginx apache2-utils", file=sys.stderr)
        return 1
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="web-") as name:
        directory = Path(name)
        config = directory / "nginx.conf"
        config.write_text(_CONFIG.format(directory=directory, port=port, page="x" * 1009))
        server = subprocess.Popen([nginx, "-p", name, "-c", str(config), "-e", "stderr"], stderr=subprocess.DEVNULL)
        try:
            if not _ready(port):
                print("nginx does not answer", file=sys.stderr)
                return 1
            command = [asker, "-q", "-k", "-n", str(requests), "-c", str(_CONNECTIONS), f"http://127.0.0.1:{port}/"]
            begin = time.perf_counter_ns()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as asking:
                status = asking.wait()
            took = time.perf_counter_ns() - begin
        finally:
            server.terminate()
            server.wait()
    print(json.dumps({"ns": took, "pid": asking.pid}))
    return status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
