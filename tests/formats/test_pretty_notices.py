"""What the tracer says of itself to people."""

import pytest

from tests.formats.events import NOW, OFFSET, SECOND, SESSION, notice
from tracer.formats.pretty_notices import LOUD, QUIET, describe
from tracer.model import Notice


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (
            notice("tracer-session-start", session={"uid": 33}),
            "tracer 1.2.3 on box, kernel 6.1.0 x86_64, 2 CPUs, started by www-data",
        ),
        (
            notice("tracer-session-start", session={"uid": 0, "sudo_uid": 1234}),
            "tracer 1.2.3 on box, kernel 6.1.0 x86_64, 2 CPUs, started by 1234 through sudo",
        ),
        (
            notice(
                "tracer-coverage",
                coverage={"hooks": {"a": "x", "b": "y"}, "blind": ["UDP", "argv"], "excluded": [7, 8]},
            ),
            "watching with core: 2 probes; can't see: UDP, argv; left out, by pid: 7, 8",
        ),
        (
            notice(
                "tracer-wire",
                netns=4026531840,
                wire={
                    "interface": {"index": 2, "name": "eth0"},
                    "out": {"owned": 1_234_567, "ownerless": {"arp": 42, "nd": 0}, "total": 1_234_609, "counted": 999},
                    "in": {"owned": 0, "ownerless": {"arp": 0, "nd": 70}, "total": 70},
                },
            ),
            (
                "wire: eth0 in namespace 4026531840; out 1.2 MB (1.2 MB owned, 42 B arp), 999 B by its own count; "
                "in 70 B (0 B owned, 70 B nd)"
            ),
        ),
        (
            notice(
                "tracer-coverage",
                coverage={"backend": "procfs", "hooks": {"a": "x"}, "polling": {"shortest_ms": 20, "longest_ms": 250}},
            ),
            "watching with procfs, looking every 20 to 250 ms",
        ),
        (
            notice(
                "tracer-confinement",
                confinement={
                    "enabled": True,
                    "layers": {"user": "off", "seccomp": "enforced"},
                    "uid": 33,
                    "capabilities": [],
                    "tries": {"execve": "EPERM", "fork": "EPERM"},
                },
            ),
            "confined as user 33, no capability; 2 forbidden things tried and refused",
        ),
        (
            notice(
                "tracer-confinement",
                confinement={
                    "enabled": True,
                    "layers": {"landlock_files": "absent", "seccomp": "enforced"},
                    "uid": 0,
                    "capabilities": ["CAP_KILL"],
                    "tries": {"execve": "EPERM", "fork": "possible"},
                },
            ),
            (
                "confined as user 0, CAP_KILL; 1 forbidden thing tried and refused; "
                "NOT ENFORCED: landlock_files absent; STILL POSSIBLE: fork"
            ),
        ),
        (
            notice("tracer-confinement", confinement={"enabled": False}),
            "NOT CONFINED: this tracer keeps its power (--no-sandbox)",
        ),
        (
            notice(
                "tracer-loss",
                loss={
                    "kind": "connect",
                    "stage": "emit",
                    "count": 1123,
                    "first": NOW,
                    "last": NOW + SECOND,
                    "cpus": [0, 1],
                },
            ),
            "LOST 1,123 connect records at emit between 22:13:20.042 and 22:13:21.042 on CPU 0, 1",
        ),
        (notice("tracer-loss", loss={"stage": "sink", "count": 1}), "LOST 1 record at sink"),
        (
            notice(
                "tracer-confinement",
                confinement={
                    "enabled": True,
                    "uid": 0,
                    "layers": {"seccomp": "enforced"},
                    "tries": {"execve": "EPERM"},
                    "broker": {
                        "enabled": True,
                        "layers": {"capabilities": "enforced", "seccomp": "absent"},
                        "capabilities": ["CAP_SYS_PTRACE"],
                    },
                    "opener": {"enabled": True, "layers": {"landlock_files": "partial"}, "capabilities": []},
                },
            ),
            (
                "confined as user 0, no capability; 1 forbidden thing tried and refused; its broker: CAP_SYS_PTRACE; "
                "NOT ENFORCED: seccomp of the broker absent, landlock_files of the opener partial"
            ),
        ),
        (
            notice(
                "tracer-backend",
                change={"state": "lost", "backend": "core", "reasons": ["a: closed", "b: closed"], "first": NOW},
            ),
            "BACKEND LOST: core: a: closed, b: closed; since 22:13:20.042 an unknown number of events is missing",
        ),
        (
            notice(
                "tracer-backend",
                change={
                    "state": "restarted",
                    "backend": "netlink",
                    "reasons": ["overrun"],
                    "first": NOW,
                    "last": NOW + SECOND,
                },
            ),
            (
                "BACKEND LOST: netlink: overrun; an unknown number of events is missing between 22:13:20.042 and "
                "22:13:21.042, this goes on after that"
            ),
        ),
        (
            notice(
                "tracer-ledger",
                ledger={"total": {"delivered": 1, "lost": 0}, "missed": {"gaps": 1}, "complete": False},
            ),
            "ledger: 1 event, 0 lost, 1 gap of which nobody knows what is missing",
        ),
        (
            notice(
                "tracer-ledger", ledger={"total": {"delivered": 1234, "lost": 0}, "complete": True, "balanced": True}
            ),
            "ledger: 1,234 events, 0 lost",
        ),
        (
            notice(
                "tracer-ledger",
                ledger={
                    "total": {"delivered": 1234, "lost": 12, "lost_by_stage": {"emit": 10, "ring": 2, "late": 0}},
                    "by_kind": {"exec": {"lost": 0}, "connect": {"lost": 10}},
                    "missed": {"programs": {"on_exec": 3}, "map_full": {"connect": 1000}},
                    "complete": False,
                    "balanced": False,
                },
            ),
            (
                "ledger: 1,234 events, 12 lost (10 connect; 10 at emit, 2 at ring), skipped by on_exec 3, "
                "no room for connect 1,000, DOES NOT BALANCE"
            ),
        ),
        (
            notice("tracer-ledger", ledger={"total": {"delivered": 1, "lost": 0}, "complete": False}),
            "ledger: 1 event, 0 lost, not complete",
        ),
        (notice("tracer-else", why="a\nb"), 'else: {"why": "a\\nb"}'),
    ],
)
def test_notices(event: Notice, shown: str) -> None:
    """What the tracer says of itself is one line of words after the time."""
    assert describe(event, SESSION, OFFSET)[0] == shown


@pytest.mark.parametrize(
    ("event", "severity"),
    [
        (notice("tracer-loss", loss={"count": 1}), LOUD),
        (notice("tracer-ledger", ledger={"total": {"lost": 0}, "complete": True, "balanced": True}), QUIET),
        (notice("tracer-ledger", ledger={"total": {"lost": 1}, "complete": False, "balanced": True}), LOUD),
        (notice("tracer-ledger", ledger={"total": {"lost": 0}, "complete": False, "balanced": True}), LOUD),
        (notice("tracer-ledger", ledger={"total": {"lost": 0}, "complete": True, "balanced": False}), LOUD),
        (notice("tracer-backend", change={"state": "lost"}), LOUD),
        (notice("tracer-backend", change={"state": "restarted"}), LOUD),
        (notice("tracer-coverage", coverage={}), ""),
    ],
)
def test_severity(event: Notice, severity: str) -> None:
    """What is missing or does not add up is loud; a ledger in order is quiet."""
    assert describe(event, SESSION, OFFSET)[1] == severity


def test_what_was_missed_is_told_in_words() -> None:
    """What is no program was not skipped by it: each count has words of its own."""
    programs = {"failed_connects": 3, "polls": 1017, "process_exec": 2, "flows": 0}
    ledger = {"total": {"delivered": 5, "lost": 0}, "missed": {"programs": programs}}
    text, _ = describe(notice("tracer-ledger", ledger=ledger), SESSION, OFFSET)
    said = "ledger: 5 events, 0 lost, skipped by process_exec 2"
    assert text == f"{said}, failed connects not told: 3, looks that came late: 1,017"
