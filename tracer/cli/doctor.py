"""The command `doctor`: tell what this machine offers, which backend would run, what it can't see, and the fixes."""

from __future__ import annotations

import json as json_module
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, TextIO

import typer

from tracer.fallback.trials import netlink_backend, procfs_backend
from tracer.formats.text import wrapped
from tracer.probes.capabilities import Survey, survey
from tracer.probes.privileges import Finding, Status
from tracer.probes.trials import HOOKS

_CELLS: Final = 100  # the widest line
_NAME: Final = 18
_STATUS: Final = 9
_COLOURS: Final = {Status.OK: "32", Status.MISSING: "31", Status.UNKNOWN: "33"}
_NOBODY: Final = 65534
_TOOLS: Final = ("mount", "sysctl", "apt-get", "dnf", "chmod")  # which take root
_COMMANDS: Final = (*_TOOLS, "sudo", "pip", "make", "unset")

_SYSTEM: Final = ("kernel", "container", "pid_namespace", "user_namespace", "cgroups", "lockdown", "unprivileged_bpf")
_TRACING: Final = ("btf", "libbpf", "perf_events", "tracefs")
_USED_HOOKS: Final = ("raw_tp", "tp_btf", "tracepoint", "fexit", "iter/task", "iter.s/task", "iter/task_file")
_CONFINEMENT: Final = ("landlock", "seccomp")
_FOR_BCC: Final = ("headers", "bcc")
_UNUSED: Final = ("bpffs", *_FOR_BCC)

_MEANINGS: Final = {
    "CAP_BPF": "load programs and make maps",
    "CAP_PERFMON": "attach to tracepoints, read kernel memory, open rings",
    "CAP_NET_ADMIN": "attach to cgroups: names, and where datagrams go",
    "CAP_DAC_READ_SEARCH": "read the ids of tracepoints in tracefs, which is root's",
    "CAP_SYS_ADMIN": "open tracefs, which is not mounted; once it is, leave this one out",
    "CAP_IPC_LOCK": "more memory for rings than the limits allow",
}
_OLD_ADMIN: Final = "what CAP_BPF and CAP_PERFMON are for since Linux 5.8"


class Fix(NamedTuple):
    """One thing to do: for which check, why, how, and whether the core backend needs it to tell all it can."""

    check: str
    reason: str
    fix: str
    needed: bool


class Report(NamedTuple):
    """The survey and what follows from it."""

    survey: Survey
    backend: str | None
    backends: dict[str, Finding]
    missing: list[str]
    blind: list[str]
    fixes: list[Fix]
    commands: dict[str, list[str]]
    code: int


def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> int:
    """Tell what works here, what doesn't, and the fix.

    Needs no root to say what is missing, and changes nothing. Exit codes: 0 the probes (core or bcc) would run as this
    user, 3 they lack only privilege, 4 the kernel or a library lacks what they need, 1 another limit is in the way.
    What runs in place of them is named as the backend.

    With --json one object, the same keys in every version; a finding is {status: ok|missing|unknown, detail, fix?} and
    facts of its own:

    \b
    schema            1
    exit_code         as above
    backend           the one that would run, or null
    backends          core, bcc, netlink, procfs: findings; core and bcc have code, hooks, refused, blind
                      (code null: not tried, since compiling takes long)
    kernel btf libbpf perf_events tracefs lockdown unprivileged_bpf pid_namespace user_namespace
    container cgroups bpffs landlock seccomp headers bcc
                      findings
    hooks             findings by kind of hook: raw_tp, tp_btf, tracepoint, fentry, fexit, kprobe, lsm,
                      iter/task, iter.s/task, iter/task_file
    maps              findings: ring_buffer, mmapable_array
    capabilities      uid; held, needed, missing: names; usable: whether those held are enough for BPF
    blind_spots       what the backend can't see, in words
    fixes             {check, reason, fix, needed}, the needed ones first
    commands          sudo, setpriv, systemd: lines that give an ordinary user just what is needed
    """
    report = assess(survey(), {"netlink": netlink_backend(), "procfs": procfs_backend()})
    stream = sys.stdout
    lines = [json_module.dumps(as_json(report))] if json else list(table(report, _wants_colour(stream)))
    encoding = stream.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in lines).encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The reader has what it wanted; what is still buffered must not fail at the interpreter's end.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
    return report.code


def assess(found: Survey, without_probes: Mapping[str, Finding] = MappingProxyType({})) -> Report:
    """Draw the conclusions: which backend runs, what it can't see, and what to do.

    ``without_probes`` are the backends that need no BPF, best first.
    """
    tried = {"core": found.core, "bcc": found.bcc}
    chosen = next((name for name, finding in tried.items() if finding.facts["code"] == 0), None)
    runs = chosen is not None
    instead = next((name for name, finding in without_probes.items() if finding.status is Status.OK), None)
    feeding = tried[chosen] if chosen else without_probes[instead] if instead else found.core
    missing = _missing(found)
    core = found.core
    if core.facts["code"] == 3 and missing:
        core = core._replace(detail=f"could not be tried without {', '.join(missing)}")
    backends = {"core": core, "bcc": found.bcc}
    backends |= without_probes
    blind = list(feeding.facts["blind"])
    if runs and found.checks["pid_namespace"].status is Status.MISSING:
        blind.append("processes and sockets from before the start that are outside this pid namespace")
    if runs and found.checks["cgroups"].status is Status.MISSING:
        blind.append("moves of processes between control groups (no cgroup v2)")
    return Report(
        found,
        chosen or instead,
        backends,
        missing,
        blind,
        _fixes(found, missing, chosen),
        _commands(found),
        int(tried[chosen or "core"].facts["code"]),
    )


def _missing(found: Survey) -> list[str]:
    # In a user namespace of its own a process may have them all, and none of them counts.
    held = found.privileges.held if found.privileges.initial_user_namespace is not False else frozenset()
    absent = [name for name in found.needed if name not in held]
    if "CAP_SYS_ADMIN" in held:
        absent = [name for name in absent if name not in ("CAP_BPF", "CAP_PERFMON")]
    if found.checks["tracefs"].status is Status.OK:  # root owns it, or a group may read it
        for_tracefs = ["CAP_DAC_READ_SEARCH", *(["CAP_SYS_ADMIN"] if "CAP_BPF" in found.needed else [])]
        absent = [name for name in absent if name not in for_tracefs]
    if found.checks["perf_events"].status is Status.OK:
        absent = [name for name in absent if name != "CAP_IPC_LOCK"]
    return absent


def _fixes(found: Survey, missing: list[str], chosen: str | None) -> list[Fix]:
    sudo = "sudo " if found.privileges.uid else ""

    def of(names: tuple[str, ...], needed: bool) -> list[Fix]:
        checks = ((name, found.checks[name]) for name in names if found.checks[name].fix)
        return [
            Fix(name, check.detail, (sudo if check.fix.startswith(_TOOLS) else "") + check.fix, needed)
            for name, check in checks
        ]

    # Where bcc runs instead, core is only wanted; where nothing does, what bcc lacks is one way out.
    fixes = of(("btf", "libbpf"), chosen is None)
    if found.core.facts["code"] not in (0, 3) and not fixes:
        fixes.append(Fix("core", found.core.detail, found.core.fix or "see the refusals above", chosen is None))
    if chosen is None and found.core.facts["code"] == 4:
        fixes += of(_FOR_BCC, True)
    if missing:
        fix = "run with sudo, or as shown under 'As an ordinary user'"
        fixes.append(Fix("capabilities", f"this process lacks {', '.join(missing)}", fix, True))
    elif found.core.facts["code"] == 3 and found.checks["user_namespace"].status is not Status.MISSING:
        fix = (
            "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=infinity), to which kernels before 5.11 charge "
            "BPF; in a container, let its seccomp profile allow bpf(2) and perf_event_open(2)"
        )
        fixes.append(Fix("capabilities", "refused though no capability is missing", fix, True))
    fixes += of(("user_namespace", "perf_events", "tracefs", "lockdown", "pid_namespace"), True)
    if "CAP_SYS_ADMIN" in found.needed and found.checks["tracefs"].status is Status.OK:
        reason = "not mounted: an ordinary user needs CAP_SYS_ADMIN"
        fixes.append(Fix("tracefs", reason, f"{sudo}mount -t tracefs nodev /sys/kernel/tracing", False))
    told = {fix.check for fix in fixes}
    return fixes + of(tuple(name for name in ("unprivileged_bpf", *_CONFINEMENT, *_FOR_BCC) if name not in told), False)


def _commands(found: Survey) -> dict[str, list[str]]:
    """How to run as an ordinary user: this one, the one behind sudo, or nobody."""
    names = [name.removeprefix("CAP_").lower() for name in found.needed]
    wanted = ",".join(["-all", *(f"+{name}" for name in names)])
    user, group = found.privileges.uid, os.getegid()
    if user == 0:
        user, group = (_number(os.environ.get(name)) for name in ("SUDO_UID", "SUDO_GID"))
    beside = Path(sys.executable).with_name("tracer")
    program = shlex.quote(str(beside)) if beside.exists() else "tracer"
    setpriv = f"sudo setpriv --reuid={user} --regid={group} --clear-groups --inh-caps={wanted} --ambient-caps={wanted}"
    capabilities = " ".join(found.needed)
    return {
        "sudo": [f"sudo {program} live"],
        "setpriv": [f"{setpriv} --bounding-set={wanted} {program} live"],
        "systemd": [f"AmbientCapabilities={capabilities}", f"CapabilityBoundingSet={capabilities}"],
    }


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() else _NOBODY


def as_json(report: Report) -> dict[str, Any]:
    """The report as doctor() documents it."""
    found = report.survey
    may = found.privileges
    return {
        "schema": 1,
        "exit_code": report.code,
        "backend": report.backend,
        "backends": _findings(report.backends),
        **_findings(found.checks),
        "hooks": _findings(found.hooks),
        "maps": _findings(found.maps),
        "capabilities": {
            "uid": may.uid,
            "held": sorted(may.held),
            "needed": found.needed,
            "missing": report.missing,
            "usable": may.bpf,
        },
        "blind_spots": report.blind,
        "fixes": [fix._asdict() for fix in report.fixes],
        "commands": report.commands,
    }


def _findings(parts: dict[str, Finding]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "status": str(part.status),
            "detail": part.detail,
            **({"fix": part.fix} if part.fix else {}),
            **part.facts,
        }
        for name, part in parts.items()
    }


def table(report: Report, colour: bool = False) -> Iterator[str]:
    """The report for people, line by line, none wider than 100 cells."""
    found = report.survey
    yield from wrapped(_verdict(report), "", "  ")
    yield from _section("System", _rows(found.checks, _SYSTEM), colour)
    tracing = _rows(found.checks, _TRACING)
    capabilities = _capability_rows(found, report.missing)
    yield from _section("What tracing takes", tracing + capabilities, colour)
    used = [(name, found.hooks[name]) for name in _USED_HOOKS]
    used.append(("mmapable array", found.maps["mmapable_array"]))
    yield from _section("Hooks and maps that the probes use, tried", used, colour)
    unused = [(name, found.hooks[name]) for name in HOOKS if name not in _USED_HOOKS]
    unused.append(("ring buffer", found.maps["ring_buffer"]))
    yield from _section("Others: nothing depends on them", unused + _rows(found.checks, _UNUSED), colour)
    yield from _section("For confinement", _rows(found.checks, _CONFINEMENT), colour)
    yield from _section("Backends", list(report.backends.items()), colour)
    refused = report.backends[report.backend or "core"].facts["refused"]
    if refused:
        yield from _listed("Refused probes", [f"{name}: {why}" for name, why in refused.items()])
    yield from _listed("Not seen", report.blind)
    for title, needed in (("To do", True), ("If you like", False)):
        chosen = [fix for fix in report.fixes if fix.needed is needed]
        if chosen:
            yield ""
            yield title
            for fix in chosen:
                yield from wrapped(f"{fix.check.replace('_', ' ')}: {fix.reason}", "  - ", "    ")
                yield from _command(fix.fix)
    yield ""
    yield "As an ordinary user"
    for name in found.needed:
        old = name == "CAP_SYS_ADMIN" and "CAP_BPF" not in found.needed
        yield from wrapped(f"{name}: {_OLD_ADMIN if old else _MEANINGS.get(name, '')}", "  - ", "    ")
    for line in report.commands["setpriv"]:
        yield from _command(line)
    yield "    or in a systemd unit:"
    for line in report.commands["systemd"]:
        yield from _command(line)


def _verdict(report: Report) -> str:
    reasons = {3: "only privilege is missing", 4: "this machine lacks what they need"}
    if report.backend and report.code:
        why = reasons.get(report.code, report.survey.core.detail)
        return f"tracer: no probes run here as this user ({why}): the backend {report.backend} runs, which sees less"
    if report.backend:
        return f"tracer: the backend {report.backend} runs here, as this user" + (
            "; it would see more after what is under 'To do'" if any(fix.needed for fix in report.fixes) else ""
        )
    return f"tracer: no backend runs here as this user: {reasons.get(report.code, report.survey.core.detail)}"


def _rows(parts: dict[str, Finding], names: tuple[str, ...]) -> list[tuple[str, Finding]]:
    return [(name.replace("_", " "), parts[name]) for name in names]


def _capability_rows(found: Survey, missing: list[str]) -> list[tuple[str, Finding]]:
    words = found.privileges.words
    if found.privileges.initial_user_namespace is False:
        words += ", but in a user namespace, where they don't count"
    if missing:
        return [("capabilities", Finding(Status.MISSING, f"{', '.join(missing)}; this process has {words}"))]
    return [("capabilities", Finding(Status.OK, f"this process has {words}"))]


def _section(title: str, rows: list[tuple[str, Finding]], colour: bool) -> Iterator[str]:
    yield ""
    yield title
    for name, finding in rows:
        status = str(finding.status).ljust(_STATUS)
        first, *rest = wrapped(finding.detail, " " * (_NAME + _STATUS + 2), " " * (_NAME + _STATUS + 2))
        painted = f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m" if colour else status
        yield f"  {name.ljust(_NAME)}{painted}{first.lstrip()}"
        yield from rest


def _listed(title: str, lines: list[str]) -> Iterator[str]:
    yield ""
    yield title
    for line in lines:
        yield from wrapped(line, "  - ", "    ")


def _command(text: str) -> list[str]:
    """A line to be copied, broken as a shell takes it back together; advice in words is broken as words are."""
    return wrapped(text, "      ", "        ", " \\" if text.startswith(_COMMANDS) else "")


def _wants_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
