"""The doctor's conclusions on machines that are made up, and the command on this one."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tracer.cli import doctor
from tracer.formats.text import width
from tracer.probes import trials
from tracer.probes.capabilities import Survey
from tracer.probes.privileges import CAPABILITY_NAMES, Finding, Privileges, Status

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from tracer.cli.doctor import doctor; sys.exit(doctor('--json' in sys.argv))"
COMMAND = [sys.executable, "-c", PROGRAM]
DROP = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
USER = 1000

CHECKS = {
    *("kernel", "btf", "libbpf", "perf_events", "tracefs", "lockdown", "unprivileged_bpf", "pid_namespace"),
    *("user_namespace", "container", "cgroups", "bpffs", "landlock", "seccomp", "headers", "bcc"),
}
EVERYTHING = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_IPC_LOCK"]
NEEDED = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]

Finished = subprocess.CompletedProcess[str]


def machine(
    *held: str,
    code: int = 0,
    uid: int = USER,
    initial: bool = True,
    needed: list[str] | None = None,
    bcc_code: int | None = None,
    **checks: Finding,
) -> Survey:
    """A machine on which everything is well, but for what is given."""
    fine = {name: Finding(Status.OK, "fine") for name in CHECKS}
    facts = {"code": code, "hooks": {}, "refused": {}, "blind": ["sockets other than TCP"]}
    return Survey(
        Privileges(frozenset(held), len(CAPABILITY_NAMES) - 1, initial, uid),
        NEEDED if needed is None else needed,
        fine | checks,
        {name: Finding(Status.OK, "loads and attaches") for name in trials.HOOKS},
        {name: Finding(Status.OK, "can be created") for name in ("ring_buffer", "mmapable_array")},
        Finding((Status.OK, Status.UNKNOWN)[code == 3] if code in (0, 3) else Status.MISSING, "as it is", "", facts),
        Finding(Status.MISSING if bcc_code == 4 else Status.OK, "as it is", "", facts | {"code": bcc_code}),
    )


NO_TRACEFS = Finding(Status.MISSING, "not mounted", "mount -t tracefs nodev /sys/kernel/tracing")


def fixes(report: doctor.Report, needed: bool = True) -> dict[str, str]:
    """What is to be done, by check."""
    return {fix.check: fix.fix for fix in report.fixes if fix.needed is needed}


def test_nothing_to_do_where_all_is_well() -> None:
    """A backend that runs with all capabilities needs nothing and gives code 0."""
    report = doctor.assess(machine(*NEEDED))
    assert (report.backend, report.code, report.missing, report.fixes) == ("core", 0, [], [])
    assert report.blind == ["sockets other than TCP"]


def test_bcc_stands_in_for_core() -> None:
    """Where core can't run and bcc does, bcc is the backend, its blind spots are told, and nothing has to be done."""
    no_btf = Finding(Status.MISSING, "no BTF", "boot another kernel")
    report = doctor.assess(machine(*NEEDED, code=4, bcc_code=0, btf=no_btf))
    assert (report.backend, report.code) == ("bcc", 0)
    assert report.blind == ["sockets other than TCP"]
    assert fixes(report) == {}
    assert fixes(report, needed=False)["btf"] == "boot another kernel"


def test_what_bcc_lacks_is_a_way_out() -> None:
    """Where neither runs, what bcc lacks is among the things to do; where core runs it is only an offer."""
    no_headers = Finding(Status.MISSING, "no headers", "apt-get install linux-headers")
    report = doctor.assess(machine(*NEEDED, code=4, bcc_code=4, headers=no_headers))
    assert (report.backend, report.code) == (None, 4)
    assert fixes(report)["headers"] == "sudo apt-get install linux-headers"
    report = doctor.assess(machine(*NEEDED, headers=no_headers))
    assert "headers" not in fixes(report)
    assert fixes(report, needed=False)["headers"] == "sudo apt-get install linux-headers"


LOOKS = Finding(Status.OK, "looks at /proc", "", {"code": 0, "hooks": {}, "refused": {}, "blind": ["short lives"]})


@pytest.mark.parametrize(("code", "why"), [(3, "only privilege"), (4, "lacks")])
def test_without_probes(code: int, why: str) -> None:
    """Where no probes run, what runs instead is the backend, its blind spots are told, and the code and the fixes stay.

    Where they do, it is only listed.
    """
    report = doctor.assess(machine(code=code, bcc_code=code), {"procfs": LOOKS})
    assert (report.backend, report.code, report.blind) == ("procfs", code, ["short lives"])
    assert report.backends["procfs"] is LOOKS
    assert "capabilities" in fixes(report)
    verdict = next(doctor.table(report))
    assert "procfs" in verdict
    assert why in verdict
    assert max(map(width, doctor.table(report))) <= 100
    report = doctor.assess(machine(*NEEDED), {"procfs": LOOKS})
    assert (report.backend, report.blind) == ("core", ["sockets other than TCP"])


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (machine(code=3, tracefs=NO_TRACEFS), NEEDED),
        (machine("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", tracefs=NO_TRACEFS), ["CAP_DAC_READ_SEARCH"]),
        (
            machine("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"),
            [],
        ),  # tracefs is readable all the same: a group may read it
        (machine("CAP_SYS_ADMIN", "CAP_NET_ADMIN", tracefs=NO_TRACEFS), ["CAP_DAC_READ_SEARCH"]),
        (machine("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"), ["CAP_NET_ADMIN"]),
        (machine(*CAPABILITY_NAMES, initial=False, code=3, tracefs=NO_TRACEFS), NEEDED),
        (machine(code=3, needed=["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]), ["CAP_SYS_ADMIN"]),
    ],
)
def test_missing_capabilities(found: Survey, missing: list[str]) -> None:
    """Missing is what is needed and not held, unless something else does the same."""
    report = doctor.assess(found)
    assert report.missing == missing
    assert ("capabilities" in fixes(report)) is bool(missing)


def test_privilege_is_the_only_thing_missing() -> None:
    """Code 3 comes with the fix: sudo, or exactly the needed capabilities."""
    report = doctor.assess(machine(code=3, tracefs=NO_TRACEFS))
    assert (report.backend, report.code) == (None, 3)
    assert "sudo" in fixes(report)["capabilities"]
    assert fixes(report)["tracefs"] == "sudo mount -t tracefs nodev /sys/kernel/tracing"
    assert "CAP_BPF" in report.backends["core"].detail


def test_refused_with_every_capability_has_a_fix_too() -> None:
    """A refusal that no capability explains is not left without advice."""
    assert "LimitMEMLOCK" in fixes(doctor.assess(machine(*NEEDED, code=3)))["capabilities"]


@pytest.mark.parametrize("name", ["btf", "libbpf"])
def test_machine_lacks_something(name: str) -> None:
    """Code 4 comes with the fix of the thing that is missing, first."""
    found = machine(*NEEDED, code=4)
    found.checks[name] = Finding(Status.MISSING, "none", "get one")
    report = doctor.assess(found)
    assert (report.backend, report.code) == (None, 4)
    assert report.fixes[0] == doctor.Fix(name, "none", "get one", True)
    assert "core" not in fixes(report)


def test_other_refusals_are_quoted() -> None:
    """Where no check explains code 4, what the backend said is what is to be looked at."""
    report = doctor.assess(machine(*NEEDED, code=4))
    assert [(fix.check, fix.reason) for fix in report.fixes] == [("core", "as it is")]


def test_blind_spots_of_namespaces_and_groups() -> None:
    """In a pid namespace, and without cgroup v2, the report says what that hides."""
    elsewhere = Finding(Status.MISSING, "not the first one", "run elsewhere")
    report = doctor.assess(machine(*NEEDED, pid_namespace=elsewhere, cgroups=Finding(Status.MISSING, "v1 only")))
    assert len(report.blind) == 3
    assert "pid namespace" in report.blind[1]
    assert "control group" in report.blind[2]


def test_mounting_is_advised_before_a_large_capability() -> None:
    """Where an ordinary user would need CAP_SYS_ADMIN only because tracefs is not mounted, the mount is named."""
    report = doctor.assess(machine(*CAPABILITY_NAMES, uid=0, needed=[*NEEDED, "CAP_SYS_ADMIN"]))
    assert fixes(report) == {}
    assert fixes(report, needed=False) == {"tracefs": "mount -t tracefs nodev /sys/kernel/tracing"}


def test_command_line_gives_exactly_what_is_needed() -> None:
    """The setpriv line names this user, and the needed capabilities and no others in all three sets."""
    (line,) = doctor.assess(machine()).commands["setpriv"]
    words = shlex.split(line)
    assert words[:2] == ["sudo", "setpriv"]
    assert f"--reuid={USER}" in words
    for option in ("inh-caps", "ambient-caps", "bounding-set"):
        assert f"--{option}=-all,+bpf,+perfmon,+net_admin,+dac_read_search" in words
    assert words[-1] == "live"


@pytest.mark.parametrize(("user", "expected"), [("1234", "1234"), (None, "65534"), ("", "65534"), ("0; rm", "65534")])
def test_root_is_shown_the_user_behind_sudo(monkeypatch: pytest.MonkeyPatch, user: str | None, expected: str) -> None:
    """Run by root, the line is for who called sudo, else for nobody, and takes no text from the environment."""
    for name in ("SUDO_UID", "SUDO_GID"):
        if user is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, user)
    (line,) = doctor.assess(machine(uid=0)).commands["setpriv"]
    assert f"--reuid={expected} --regid={expected} " in line


def test_unit_has_the_same_capabilities() -> None:
    """The lines for systemd name the same capabilities as the list."""
    lines = doctor.assess(machine()).commands["systemd"]
    assert lines == [f"{name}={' '.join(NEEDED)}" for name in ("AmbientCapabilities", "CapabilityBoundingSet")]


HOSTILE = Finding(Status.MISSING, "one\ntwo \x1b[31mred " + "x" * 300 + " 漢字" * 60, "do\x1bthis " * 40)


@pytest.mark.parametrize(
    "report",
    [
        doctor.assess(machine(*NEEDED)),
        doctor.assess(machine(code=3, tracefs=NO_TRACEFS, needed=EVERYTHING)),
        doctor.assess(machine(code=4, btf=HOSTILE, kernel=HOSTILE, bcc=HOSTILE)),
    ],
    ids=["well", "privilege", "hostile"],
)
def test_table_fits(report: doctor.Report) -> None:
    """No line is wider than 100 cells or holds a control character, whatever the checks say."""
    lines = list(doctor.table(report))
    assert max(width(line) for line in lines) <= 100
    assert all(line.isprintable() for line in lines)


def test_every_status_is_a_word() -> None:
    """The state of a check is readable without colour, and the same line with colour has the same text."""
    report = doctor.assess(machine(code=3, tracefs=NO_TRACEFS, lockdown=Finding(Status.UNKNOWN, "can't be read")))
    plain = list(doctor.table(report))
    assert any(re.match(r"  tracefs +missing +not mounted$", line) for line in plain)
    assert any(re.match(r"  lockdown +unknown +can't be read$", line) for line in plain)
    assert any(re.match(r"  seccomp +ok +fine$", line) for line in plain)
    painted = list(doctor.table(report, colour=True))
    assert painted != plain
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted] == plain


@pytest.mark.parametrize("directory", ["bin", "a/rather/long/path/" * 8])
def test_broken_commands_are_whole_again_in_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, directory: str
) -> None:
    """A command that is too long for a line is broken so that a shell reads the same command."""
    program = tmp_path / directory / "tracer"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    report = doctor.assess(machine(needed=EVERYTHING))
    lines = list(doctor.table(report))
    assert max(width(line) for line in lines) <= 100
    text = "\n".join(lines)
    shown = text[text.index("sudo setpriv") : text.index("    or in a systemd unit")]
    assert shown.count("\\\n") > 1
    read = subprocess.run(["sh", "-c", f"printf '%s\\n' {shown}"], capture_output=True, text=True, check=True).stdout
    assert str(program) in read.splitlines()
    assert read.splitlines() == shlex.split(report.commands["setpriv"][0])


@pytest.mark.parametrize(
    ("terminal", "environment", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], wanted: bool
) -> None:
    """Colour needs a terminal that has it, and NO_COLOR unset or empty."""

    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert doctor._wants_colour(Stream()) is wanted


def test_json_keys_are_those_documented() -> None:
    """Every key of the object is in the docstring, and every check of the survey in the object."""
    answer = doctor.as_json(doctor.assess(machine(code=3, tracefs=NO_TRACEFS)))
    documented = set(re.findall(r"[\w./]+", doctor.doctor.__doc__ or ""))
    assert set(answer) | set(answer["hooks"]) | set(answer["maps"]) | set(answer["capabilities"]) <= documented
    assert set(answer) >= CHECKS
    assert json.loads(json.dumps(answer)) == answer
    assert answer["tracefs"] == {"status": "missing", "detail": NO_TRACEFS.detail, "fix": NO_TRACEFS.fix}
    assert answer["capabilities"]["missing"] == NEEDED


def test_typer_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered as a command it has the option --json and the code as its result."""
    monkeypatch.setattr(doctor, "survey", lambda: machine(code=3, tracefs=NO_TRACEFS))
    app = typer.Typer()
    app.command()(doctor.doctor)
    answer = CliRunner().invoke(app, ["--json"], standalone_mode=False)
    assert answer.return_value == 3
    assert json.loads(answer.stdout)["exit_code"] == 3
    assert CliRunner().invoke(app, ["--bogus"]).exit_code == 2


def run(program: list[str], *options: str, **more: Any) -> Finished:
    """Runs a command, to its end."""
    return subprocess.run(
        [*program, *options], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT, **more
    )


@pytest.mark.live
def test_root_gets_code_0_and_one_object() -> None:
    """As root a backend runs; --json is one object on one line, and the table says the same."""
    answer, shown = run(COMMAND, "--json"), run(COMMAND)
    assert (answer.returncode, answer.stderr, shown.returncode, shown.stderr) == (0, "", 0, "")
    assert answer.stdout.count("\n") == 1
    found = json.loads(answer.stdout)
    assert (found["exit_code"], found["backend"]) == (0, "core")
    assert set(found["capabilities"]["needed"]) <= set(CAPABILITY_NAMES)
    assert shown.stdout.startswith("tracer: the backend core runs here")
    assert "\x1b" not in shown.stdout


@pytest.mark.live
def test_ordinary_user_gets_code_3_and_the_whole_report() -> None:
    """Without any privilege the code is 3, the report is complete, and there is no traceback."""
    dropped = [sys.executable, "-c", PROGRAM.replace("sys.exit(", f"{DROP}sys.exit(")]
    found = run(dropped, "--json")
    assert (found.returncode, found.stderr) == (3, "")
    answer = json.loads(found.stdout)
    assert (answer["exit_code"], answer["backend"]) == (3, "procfs")
    assert answer["capabilities"]["missing"] == answer["capabilities"]["needed"]


@pytest.mark.live
def test_closed_pipe_is_no_error() -> None:
    """A reader that goes away after a line changes neither the code nor stderr."""
    shell = ["sh", "-c", '{ "$@"; echo "code $?" >&2; } | head -1', "sh", *COMMAND]
    finished = run(shell)
    assert finished.stdout.count("\n") == 1
    assert finished.stderr == "code 0\n"


@pytest.mark.live
def test_output_that_is_not_utf8() -> None:
    """Where only ASCII can be written nothing fails."""
    finished = run(["env", "PYTHONIOENCODING=ascii:strict", *COMMAND])
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.live
def test_without_libbpf_the_code_is_4() -> None:
    """A library that is not there is named, with code 4."""
    finished = run(["env", "TRACER_LIBBPF=/nonexistent/libbpf.so.1", *COMMAND, "--json"])
    assert (finished.returncode, finished.stderr) == (4, "")
    answer = json.loads(finished.stdout)
    assert "/nonexistent/libbpf.so.1" in answer["libbpf"]["detail"]
    assert answer["fixes"][0]["check"] == "libbpf"
