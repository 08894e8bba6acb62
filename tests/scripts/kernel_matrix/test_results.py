"""What is a pass, a failure, a missing facility and a lost guest, and what matrix.toml expects of it."""

import json

import pytest

from scripts.kernel_matrix.config import Kernel, Missing
from scripts.kernel_matrix.results import Line, Results, capabilities, check_capabilities, from_json
from tests.scripts.kernel_matrix.columns import NO_CLOCK, REASON, TITLES, counted, ending, judged, sandbox, trap


def test_all_passed() -> None:
    """A guest that passed everything has no problems."""
    column = judged([trap(1), trap(4), {"trap": 6, "title": "t", "result": "coming"}, *ending()])
    assert {number: row.result for number, row in column.rows.items()} == {1: "ok", 4: "ok", 6: "coming"}
    assert (column.attribution, column.problems) == ("ok", [])
    assert column.hooks == {"process_exec": "tp_btf/sched_process_exec"}


def test_failure() -> None:
    """A failed trap is a problem with number, case and message; refused hooks are told beside it."""
    failures = [{"case": "test_success[x]", "message": "assert 1 == 2\nlast line"}]
    column = judged([trap(1, "fail", failures=failures), trap(4), *ending(refused={"exit_connect": "-EINVAL: R1"})])
    assert column.rows[1].result == "FAIL"
    assert column.problems == [
        "trap 1: test_success[x]: assert 1 == 2\nlast line",
        "hook refused: exit_connect: -EINVAL: R1",
    ]


def test_wrong_bytes() -> None:
    """Each wrong row of the check of bytes is told with its problems; what can't be there is kept, and no problem."""
    column = judged([trap(1), trap(4), *ending()])
    assert (column.bytes, column.not_here) == ("ok", {"sctp": "socket: EPROTONOSUPPORT"})
    assert column.not_seen == {"vsock": "bytes that vsock sockets send"}
    lines = [line for line in ending() if line.get("guest") != "bytes"]
    column = judged([trap(1), trap(4), *lines, counted("sent 7 bytes, told 8")])
    assert (column.bytes, column.problems) == ("FAIL", ["bytes\nudp: sent 7 bytes, told 8"])
    column = judged([trap(1), trap(4), *lines])
    assert (column.bytes, column.problems) == ("FAIL", ["the check of bytes gave no result"])


def test_refused_hooks_alone() -> None:
    """A hook that a kernel refuses is no problem while every trap passes."""
    assert judged([trap(1), trap(4), *ending(refused={"exit_connect": "no such tracepoint"})]).problems == []


def test_expected_missing() -> None:
    """A missing facility that matrix.toml names, and the guest gives as its reason, is as it must be."""
    lines = [trap(1), trap(34, "missing", reasons=[REASON]), *ending()]
    column = judged(lines, (1, 34), [NO_CLOCK])
    assert (column.rows[34].result, column.rows[34].reasons, column.problems) == ("none", [REASON], [])


@pytest.mark.parametrize(
    "missing",
    [
        [],
        [NO_CLOCK._replace(trap=35)],
        [NO_CLOCK._replace(kernels=("5.10",))],
        [NO_CLOCK._replace(backends=("bcc",))],
        [NO_CLOCK._replace(reason="no CPU to take offline")],
    ],
)
def test_unexpected_missing(missing: list[Missing]) -> None:
    """A reason that matrix.toml does not expect here is a failure, whatever else it expects."""
    column = judged([trap(1), trap(34, "missing", reasons=[REASON]), *ending()], (1, 34), missing)
    assert column.rows[34].result == "FAIL"
    assert any("does not expect" in problem and REASON in problem for problem in column.problems)


def test_missing_case() -> None:
    """One case that is missing beside others that pass must be expected too."""
    lines = [trap(1), trap(34, reasons=[REASON]), *ending()]
    assert judged(lines, (1, 34), [NO_CLOCK]).problems == []
    assert judged(lines, (1, 34), [NO_CLOCK]).rows[34].result == "ok"
    assert judged(lines, (1, 34)).rows[34].result == "FAIL"


def test_expected_missing_passes() -> None:
    """An expected failure that passes fails the column."""
    column = judged([trap(1), trap(34), *ending()], (1, 34), [NO_CLOCK])
    assert column.rows[34].result == "FAIL"
    assert column.problems == ["trap 34 passes, but matrix.toml expects it to be missing: no settable clock"]


def test_missing_without_reason() -> None:
    """Who says missing and no more has proven nothing."""
    column = judged([trap(1), trap(34, "missing"), *ending()], (1, 34))
    assert column.problems == ["trap 34 is missing without a reason"]


def test_host_is_not_disturbed() -> None:
    """What would disturb this machine is left out on the host without being expected, and only there."""
    lines = [trap(34, "missing", reasons=["disturbs the machine: only with --disruptive"]), *ending()]
    column = judged(lines, (34,), [NO_CLOCK], kernel="host")
    assert (column.rows[34].result, column.problems) == ("none", [])
    assert judged(lines, (34,)).rows[34].result == "FAIL"


def test_lost_guest() -> None:
    """A lost guest is told with its last trap and its reason; traps it did not come to are lost, not failed."""
    column = judged([trap(1)], lost="Kernel panic - not syncing")
    assert {number: row.result for number, row in column.rows.items()} == {1: "ok", 4: "lost"}
    assert column.attribution == "lost"
    assert column.problems == ["the guest was lost after trap 1: Kernel panic - not syncing"]
    assert "before the first trap" in judged([], lost="x").problems[0]


def test_selftest_broke_off() -> None:
    """When the self-test cannot run at all, every trap has failed, for the reason it gave."""
    said = "code 4: process_exec: R1 invalid mem access 'scalar'"
    error = {"guest": "error", "step": "selftest", "backend": "core", "message": said}
    column = judged([error, {"guest": "end", "code": 1}], attribution=False)
    assert [row.result for row in column.rows.values()] == ["FAIL", "FAIL"]
    assert column.problems == [f"traps 1, 4 did not run: selftest: {said}"]


def test_no_row() -> None:
    """A trap that the corpus has and the guest did not run is a failure, also where it says that it is to come."""
    column = judged([trap(1), {"trap": 4, "title": "t", "result": "coming"}, *ending()])
    assert column.rows[4].result == "FAIL"
    assert column.problems == ["trap 4: the self-test gave no row for them"]


def test_attribution() -> None:
    """An inexact check is told with its figures; one that never came is a problem unless it was not asked for."""
    rows = [{"kind": "exec", "recall": 0.5, "precision": 1.0}, {"kind": "exit", "recall": 1.0, "precision": 1.0}]
    wrong = {
        "guest": "attribution",
        "backend": "core",
        "passed": False,
        "report": {"rows": rows, "problems": ["2 lost"]},
    }
    column = judged([trap(1), trap(4), wrong, counted(), sandbox()])
    assert column.attribution == "FAIL"
    assert column.problems == ["attribution; exec: recall 0.500000, precision 1.000000; 2 lost"]
    assert judged([trap(1), trap(4), counted(), sandbox()]).problems == ["the check of attribution gave no result"]
    assert judged([trap(1), trap(4)], attribution=False).problems == []


def test_capabilities() -> None:
    """What doctor found is compared with what is expected, one line for each that differs."""
    doctor = {
        "btf": {"status": "ok"},
        "headers": {"status": "missing"},
        "hooks": {"fentry": {"status": "ok"}, "kprobe": {"status": "missing"}},
        "landlock": {"status": "ok", "abi": 6},
    }
    assert capabilities(doctor) == {
        "btf": True,
        "headers": False,
        "fentry": True,
        "kprobe": False,
        "lsm": False,
        "landlock_abi": 6,
    }
    expected = {"btf": True, "kprobe": True, "lsm": False, "landlock_abi": 0}
    kernel = Kernel("6.12", "trixie", "amd64", (), (), ("core",), (), False, 0, expected)
    assert check_capabilities(kernel, doctor) == [
        "kprobe: matrix.toml expects yes, doctor found no",
        "landlock_abi: matrix.toml expects 0, doctor found 6",
    ]


def test_file() -> None:
    """Results come back from a file as they were; another schema is refused."""
    column = judged([trap(1, "fail"), trap(34, "missing", reasons=[REASON])], lost="gone")
    results = Results(TITLES, [column], {"run_s": 1.0})
    assert not results.passed
    text = json.dumps(results.as_json())
    assert from_json(json.loads(text)) == results
    with pytest.raises(ValueError, match="schema"):
        from_json({**json.loads(text), "schema": 99})


def test_nothing_is_no_pass() -> None:
    """Without a column nothing has passed."""
    assert not Results(TITLES, []).passed
    assert Results(TITLES, [judged([trap(1), trap(4), *ending()])]).passed


NO_LANDLOCK = {"landlock_abi": 0, "strict": False}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (sandbox(), None),
        (sandbox(proof=NO_LANDLOCK, code=6, lines=0), None),
        (sandbox(code=6, lines=0), "--sandbox-strict ended with 6 after 0 lines, not with 0"),
        (
            sandbox(proof=NO_LANDLOCK, code=6, lines=1),
            "--sandbox-strict ended with 6 after 1 lines, not with 6 before any",
        ),
        (sandbox(proof=NO_LANDLOCK), "--sandbox-strict ended with 0 after 3 lines, not with 6 before any"),
        (sandbox(proof={"landlock_abi": 2}), "--sandbox-strict should not run"),
        (
            sandbox(
                proof={"escapes": [{"name": "open", "layer": "seccomp", "result": "broken"}], "as_expected": False}
            ),
            "seccomp: open is broken",
        ),
        (
            sandbox(proof={"layers": {"seccomp": {"state": "absent", "expected": "enforced"}}, "as_expected": False}),
            "seccomp is absent, not enforced",
        ),
        (sandbox(proof={"as_expected": False}), "not as it should be"),
    ],
)
def test_sandbox(line: Line, problem: str | None) -> None:
    """Escapes that get through, layers and strict sessions that are not as on such kernels, each is a problem."""
    column = judged([trap(1), trap(4), *(each for each in ending() if each.get("guest") != "sandbox"), line])
    assert column.sandbox == ("FAIL" if problem else "ok")
    assert column.problems == ([f"sandbox: {problem}"] if problem else [])


def test_no_sandbox() -> None:
    """A guest that says nothing of its sandbox has a problem, unless it was not asked."""
    lines = [trap(1), trap(4), *(each for each in ending() if each.get("guest") != "sandbox")]
    assert judged(lines).problems == ["the check of the sandbox gave no result"]
    assert judged(lines, attribution=False).problems == []
