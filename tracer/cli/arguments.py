"""The options that several commands have, each told once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AccountWire",
    "Aggregate",
    "Backend",
    "Buffer",
    "Children",
    "Cidr",
    "Comm",
    "Duration",
    "EventNames",
    "Exe",
    "FailOnLoss",
    "FloodBudget",
    "Format",
    "GeoIp",
    "HashUsers",
    "Hooks",
    "Json",
    "Netns",
    "NoPayload",
    "NoSandbox",
    "NoSnapshot",
    "Output",
    "Pid",
    "Port",
    "Redact",
    "SandboxStrict",
    "Stats",
    "Truncate",
    "Uid",
    "UpdateEvery",
    "User",
    "Words",
]

Words = list[str] | None
Format = Annotated[
    str | None,
    typer.Option("--format", help="pretty (default on a terminal), ecs (default elsewhere) or ocsf", metavar="NAME"),
]
Json = Annotated[bool, typer.Option("--json", help="the same as --format ecs")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="write to a file instead of stdout", metavar="FILE")
]
FailOnLoss = Annotated[bool, typer.Option("--fail-on-loss", help="exit with 5 unless the ledger says complete")]
NoSandbox = Annotated[bool, typer.Option("--no-sandbox", help="keep all power after the start")]
SandboxStrict = Annotated[
    bool, typer.Option("--sandbox-strict", help="exit with 6 unless every layer of the sandbox is on")
]


Pid = Annotated[Words, typer.Option("--pid", help="only this process (repeatable)", metavar="PID")]
Children = Annotated[bool, typer.Option("--children", help="with --pid: its descendants too")]
Comm = Annotated[Words, typer.Option("--comm", help="only processes of this name (glob, repeatable)", metavar="GLOB")]
Exe = Annotated[Words, typer.Option("--exe", help="only this executable's path (glob, repeatable)", metavar="GLOB")]
Uid = Annotated[Words, typer.Option("--uid", help="only this user, by name or number (repeatable)", metavar="USER")]
Port = Annotated[Words, typer.Option("--port", help="only sockets with this port (repeatable)", metavar="PORT")]
Cidr = Annotated[Words, typer.Option("--cidr", help="only sockets in this network (repeatable)", metavar="NET")]
EventNames = Annotated[
    Words,
    typer.Option(
        "--event",
        help="only these: exec, exec-failed, fork, exit, connect, accept, listen, close, flow, owner, update; "
        "all but fork by itself",
        metavar="NAME,…",
    ),
]
Netns = Annotated[Words, typer.Option("--netns", help="only this network namespace (inode or path)", metavar="NS")]
Duration = Annotated[str | None, typer.Option("--duration", help="end after this time (10, 1.5s, 5m)", metavar="TIME")]
UpdateEvery = Annotated[
    str,
    typer.Option(
        "--update-every", help="tell this often what open flows have moved so far, if they have", metavar="TIME"
    ),
]
Buffer = Annotated[str, typer.Option("--buffer", help="bytes of the kernel's buffers, over all CPUs", metavar="SIZE")]
Backend = Annotated[str, typer.Option("--backend", help="auto, core, bcc, netlink or procfs", metavar="NAME")]
Hooks = Annotated[
    str,
    typer.Option("--hooks", help="auto, or tracepoints: those of system calls even where others do", metavar="KIND"),
]
AccountWire = Annotated[
    bool, typer.Option("--account-wire", help="count what each network device carries, and whose it is")
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        "--aggregate", help="make one record of short flows that are alike and end within this time", metavar="TIME"
    ),
]
FloodBudget = Annotated[
    int,
    typer.Option(
        "--flood-budget",
        min=0,
        max=1_000_000_000,
        help="events a second of a user in a control group on each CPU; what is beyond is counted; 0: no limit",
        metavar="N",
    ),
]
NoSnapshot = Annotated[bool, typer.Option("--no-snapshot", help="leave out what was there before")]
NoPayload = Annotated[
    bool, typer.Option("--no-payload", help="take no bytes of what is sent: no names from DNS, TLS, HTTP, QUIC")
]
User = Annotated[str | None, typer.Option("--user", help="run as this user after the start", metavar="USER")]
Redact = Annotated[
    Path | None,
    typer.Option("--redact", help="rules for secrets beside those that are built in, or none at all", metavar="FILE"),
]
Truncate = Annotated[
    bool, typer.Option("--truncate-addresses", help="tell of addresses only the network: /24, or /48 of IPv6")
]
HashUsers = Annotated[
    Path | None,
    typer.Option("--hash-users", help="tell users by pseudonyms, made with the key in this file", metavar="KEYFILE"),
]
GeoIp = Annotated[
    list[Path] | None,
    typer.Option(
        "--geoip", help="tell where addresses are, by this MaxMind database (repeatable; in ecs)", metavar="FILE"
    ),
]
Stats = Annotated[Path | None, typer.Option("--stats", help="keep figures for Prometheus in this file", metavar="FILE")]
