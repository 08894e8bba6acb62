"""Lines of guests, and columns made of them, for the tests."""

from collections.abc import Sequence
from typing import Any

from scripts.kernel_matrix.config import Missing
from scripts.kernel_matrix.results import Column, Line, judge

REASON = "this kernel has no settable clock"
NO_CLOCK = Missing(34, ("6.1",), ("core",), "no settable clock", "nothing drives it")
TITLES = {1: "the first", 4: "the fourth", 34: "clocks", 40: "still to come"}


def trap(number: int, result: str = "pass", **facts: Any) -> Line:
    """A row as the self-test prints it."""
    passed = int(result == "pass")
    cases = {"pass": passed, "fail": int(result == "fail"), "missing": int(result == "missing")}
    row = {"trap": number, "title": "t", "backend": "core", "result": result, "cases": cases}
    return {**row, "reasons": [], "failures": [], "seconds": 1.5, **facts}


def sandbox(**changed: Any) -> Line:
    """What a guest says of its sandbox that does all that a kernel with Landlock ABI 6 can."""
    proof = {
        "landlock_abi": 6,
        "strict": True,
        "as_expected": True,
        "layers": {"seccomp": {"state": "enforced", "expected": "enforced"}},
        "escapes": [{"name": "open", "layer": "seccomp", "result": "holds"}],
    }
    strict = {"code": 0, "lines": 3}
    return {"guest": "sandbox", "proof": proof | changed.pop("proof", {}), "strict": strict | changed}


def counted(*problems: str) -> Line:
    """What a guest says of its check of bytes: one row, with these problems, and two that can't be."""
    row = {"row": "udp", "verdict": "WRONG" if problems else "exact", "problems": list(problems)}
    absent = {"row": "sctp", "verdict": "not here: socket: EPROTONOSUPPORT", "problems": []}
    unseen = {"row": "vsock", "verdict": "can't here: bytes that vsock sockets send", "problems": []}
    report = {"passed": not problems, "rows": [row, absent, unseen], "problems": []}
    return {"guest": "bytes", "backend": "core", "passed": not problems, "report": report, "seconds": 9.0}


def ending(**coverage: Any) -> list[Line]:
    """The lines after the rows."""
    told = {"hooks": {"process_exec": "tp_btf/sched_process_exec"}, "refused": {}, "blind": [], **coverage}
    return [
        {"selftest": {"kernel": "6.1.0", "coverage": told}},
        {"guest": "attribution", "backend": "core", "passed": True, "report": {}, "seconds": 9.0},
        counted(),
        sandbox(),
        {"guest": "end", "code": 0},
    ]


def judged(
    lines: Sequence[Line],
    wanted: Sequence[int] = (1, 4),
    missing: Sequence[Missing] = (),
    *,
    lost: str = "",
    kernel: str = "6.1",
    attribution: bool = True,
) -> Column:
    """The column of a guest that said these lines."""
    column = Column(kernel, "core", "amd64", "6.1.0-50", "6.1.176-1", lost=lost, boots=1, ready_s=9.0, seconds=400.0)
    judge(column, lines, wanted, missing, attribution=attribution)
    return column
