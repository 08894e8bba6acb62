"""A bundle and the events of one tree, with every kind of event that a report shows, and with hostile names."""

from __future__ import annotations

from typing import Any

EVIL = "<script>alert(1)</script>"
EVIL_PATH = "/tmp/\"><img src=x onerror=alert(2)>/'\x1b[31m\u202e&amp;"
HOUR_NS = 1_700_000_000_000_000_000


def at(milliseconds: int) -> str:
    """A time of the story."""
    return f"2023-11-14T22:13:{20 + milliseconds // 1000:02}.{milliseconds % 1000:03}000000Z"


def process(pid: int, program: str, parent: int | None = None, name: str = "", start: int = 0) -> dict[str, Any]:
    """The object of a process in an event."""
    made: dict[str, Any] = {
        "pid": pid,
        "entity_id": f"E{pid}",
        "name": name or program.rsplit("/", 1)[-1][:15],
        "start": at(start),
        "executable": program,
        "user": {"id": "0", "name": "root"},
    }
    if parent is not None:
        made["parent"] = {"pid": parent, "entity_id": f"E{parent}"}
    return made


def event(action: str, when: int, of: dict[str, Any], **members: Any) -> dict[str, Any]:
    """An event in ECS."""
    return {"@timestamp": at(when), "event": {"action": action, "kind": "event"}, "process": of, **members}


def bundle() -> dict[str, Any]:
    """What a process was when it was looked at."""
    return {
        "version": 1,
        "made": at(0),
        "target": {"pid": 4242, "entity_id": "E4242", "asked": "nginx"},
        "process": {**process(4242, "/usr/sbin/nginx", 1), "args": ["nginx", "-g", "daemon off; \n evil"]},
        "lineage": [process(700, "/usr/bin/containerd-shim", 1), process(1, "/usr/lib/systemd/systemd")],
        "executable": {
            "path": "/usr/sbin/nginx",
            "deleted": True,
            "sha256": "ab" * 32,
            "package": {"name": "nginx", "version": "1.22.1-9", "manager": "dpkg"},
        },
        "working_directory": "/",
        "environment": {"names": ["PATH", "LANG", EVIL]},
        "capabilities": {"effective": ["CAP_NET_BIND_SERVICE"], "permitted": ["CAP_NET_BIND_SERVICE"], "ambient": []},
        "seccomp": {"mode": "filter", "filters": 2},
        "no_new_privileges": True,
        "namespaces": {"net": {"inode": 4026532181, "differs": True}, "pid": {"inode": 4026531836, "differs": False}},
        "cgroup": {"path": "/system.slice/nginx.service", "unit": "nginx.service"},
        "limits": {"nofile": [1024, 524288]},
        "memory": {"rss": 10_756_096, "pss": 5_000_000, "swap": 0},
        "threads": 3,
        "files": {"counts": {"regular": 4, "socket": 2}, "open": [{"fd": 3, "kind": "regular", "path": EVIL_PATH}]},
        "sockets": [
            {
                "transport": "tcp",
                "state": "ESTABLISHED",
                "local": {"ip": "192.0.2.1", "port": 40000},
                "peer": {"ip": "2001:db8::1", "port": 443, "name": "example.org"},
                "sent": 1000,
                "received": 2000,
            }
        ],
        "listeners": [{"transport": "tcp", "state": "LISTEN", "local": {"ip": "0.0.0.0", "port": 80}}],
        "mappings": [{"range": "7f00-7f01", "perms": "rwx", "path": "", "reason": "writable and executable"}],
        "children": [
            {
                **process(4243, "/usr/sbin/nginx", 4242, EVIL, 10),
                "children": [process(4250, "/bin/dash", 4243, "sh", 20)],
            }
        ],
        "denied": ["landlock"],
    }


def flow(
    when: int, of: dict[str, Any], number: int, action: str = "connection-opened", **members: Any
) -> dict[str, Any]:
    """An event of a connection."""
    made = event(
        action,
        when,
        of,
        source={"ip": "192.0.2.1", "port": 40000 + number, "bytes": 100 * number},
        destination={"ip": "198.51.100.7", "port": 443, "bytes": 1000 * number, "domain": "example.org"},
        network={"transport": "tcp", "direction": "egress"},
        tracer={"socket": {"id": f"s{number}"}, "name": {"from": "dns"}},
    )
    return made | members


def events() -> list[dict[str, Any]]:
    """Everything that happens: 3 programs, 5 flows of which 2 fail, 4 changes of files, 3 denials, and the rest."""
    master, worker = process(4242, "/usr/sbin/nginx", 1), process(4243, "/usr/sbin/nginx", 4242, EVIL, 10)
    shell = {**process(4250, "/bin/dash", 4243, "sh", 20), "args": ["sh", "-c", EVIL]}
    tool = {**process(4251, EVIL_PATH, 4250, EVIL, 900), "args": [EVIL_PATH, "--x=</code></script>"]}
    made = [
        event("process-executed", 20, shell),
        event("process-executed", 900, tool),
        event("process-exec-failed", 950, shell, error={"code": "ENOENT"}, tracer={"exec": {"requested": "/no/such"}}),
        event(
            "dns-answered",
            1000,
            tool,
            dns={"question": {"name": "Example.org"}, "response_code": "NOERROR", "resolved_ip": ["198.51.100.7"]},
        ),
        *(flow(1100 + 100 * number, tool, number) for number in range(1, 4)),
        *(flow(1150 + 100 * number, tool, number, "connection-closed") for number in range(1, 3)),
        *(
            flow(2000 + number, worker, 10 + number, "connection-failed", error={"code": "ECONNREFUSED"})
            for number in range(2)
        ),
        event("file-created", 2100, tool, file={"path": EVIL_PATH}),
        event("file-opened-for-writing", 2101, tool, file={"path": EVIL_PATH}),
        event("file-renamed", 2200, tool, file={"path": "/tmp/a", "target_path": "/tmp/b"}),
        event("file-deleted", 2300, tool, file={"path": "/tmp/b"}, tracer={"file": {"requested": "../tmp/b"}}),
        *(
            event(
                "access-denied",
                2400 + number,
                tool,
                error={"code": "EACCES"},
                tracer={"denied": {"syscall": "openat", "path": "/etc/shadow", "layer": "landlock"}},
            )
            for number in range(2)
        ),
        event(
            "access-denied",
            2500,
            tool,
            error={"code": "EPERM"},
            tracer={"denied": {"syscall": "connect", "address": "198.51.100.9", "port": 25, "layer": "seccomp"}},
        ),
        event("privilege-changed", 2600, tool, tracer={"privilege": {"before": {"uid": 0}, "after": {"uid": 33}}}),
        event("memfd-created", 2700, tool, file={"name": EVIL}),
        event("namespace-changed", 2750, tool, tracer={"call": {"name": "unshare"}, "namespaces": ["net", "mnt"]}),
        event("filesystem-mounted", 2760, tool, file={"path": "/mnt", "target_path": "tmpfs"}),
        event(
            "process-exited",
            3000,
            {**tool, "exit_code": 137},
            tracer={"process": {"signal": 9, "signal_name": "SIGKILL"}},
        ),
        event("process-exited", 4000, {**shell, "exit_code": 0}),
        event(
            "syscall-summary",
            4100,
            master,
            tracer={
                "syscalls": [
                    {"name": "read", "count": 101, "total_ns": 5_000_000, "histogram": [0] * 9 + [50, 30, 20, 1]},
                    {
                        "name": "openat",
                        "count": 23,
                        "total_ns": 900_000,
                        "errors": {"ENOENT": 7, "EACCES": 2},
                        "histogram": [0] * 10 + [20, 3],
                    },
                    {"name": EVIL, "count": 1, "total_ns": 10, "histogram": [0, 0, 0, 1]},
                ]
            },
        ),
    ]
    ledger = {"complete": True, "final": True}
    made.append({"@timestamp": at(5000), "event": {"action": "tracer-ledger"}, "tracer": {"ledger": ledger}})
    return made
