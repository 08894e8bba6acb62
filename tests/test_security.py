"""SECURITY.md is what the program has: each table is compared with its data, each claim names a test that is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.cli.doctor import _MEANINGS
from tracer.confine.attest import TRIES
from tracer.confine.escapes import ESCAPES
from tracer.confine.expected import KERNELS, expected
from tracer.confine.plan import Layer
from tracer.confine.seccomp_filter import WORKER
from tracer.probes import privileges

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()
COMPARED = {"kernel", "step", "try", "system calls", "escape", "capability"}  # tables that a test below compares


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Every table: its titles and its rows, as cells."""
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        titles, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        titles[0] = titles[0].strip("| ")
        yield titles, [[cell.strip("| ") for cell in row] for row in rows]


def table(first: str) -> list[list[str]]:
    """The rows of the one table whose first title is this."""
    found = [rows for titles, rows in tables() if titles[0] == first]
    assert len(found) == 1, first
    return found[0]


def code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_table_is_checked() -> None:
    """A table is compared with data here, or its last column names tests; that of file modes has tests of its own."""
    found = list(tables())
    assert len(found) >= 9
    for titles, rows in found:
        assert rows
        assert titles[0] in COMPARED or titles[-1] == "checked by" or titles == ["", ""], titles


def test_claims_name_tests_that_are_there() -> None:
    """Every row with a last column `checked by` names a file of tests, and a test in it."""
    checked = [row[-1] for titles, rows in tables() if titles[-1] == "checked by" for row in rows]
    assert len(checked) > 15
    for cell in checked:
        for name in code(cell):
            path, _, test = name.partition("::")
            tree = ast.parse((ROOT / path).read_text())
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert (test in defined) if test else any(each.startswith("test_") for each in defined), name


def test_kernels() -> None:
    """The table of kernels is the one that doctor --prove compares this kernel with."""
    titles = next(titles for titles, _ in tables() if titles[0] == "kernel")
    layers = [Layer(code(title)[0]) for title in titles[2:-1]]
    assert layers == list(Layer)[1:]
    wanted = []
    for kernel in KERNELS:
        states = expected(kernel.landlock_abi)
        strict = "runs" if kernel.strict else "code 6"
        abi = str(kernel.landlock_abi or "none")
        wanted.append([kernel.release, abi, *(states[layer].value for layer in layers), strict])
    assert table("kernel") == wanted


def test_steps() -> None:
    """The steps are the layers, in the order in which they are put on."""
    assert [code(row[0]) for row in table("step")] == [[layer.value] for layer in Layer]


def test_tries() -> None:
    """Each try is there, refused as tests/live/test_confinement.py finds it."""
    assert [(code(row[0]), row[2]) for row in table("try")] == [([name], "EPERM") for name in TRIES]


def test_calls() -> None:
    """Just the system calls that the filter lets through are there, once each."""
    told = [name for row in table("system calls") for name in code(row[0])]
    assert sorted(told) == sorted({rule.name for rule in WORKER if not rule.error})
    limited = {name for row in table("system calls") for name in code(row[0]) if not row[1].startswith("any")}
    assert limited == {rule.name for rule in WORKER if rule.checks}


def test_escapes() -> None:
    """Each escape is there with its layer, its error and what stands behind; tests/live/test_prove.py tries them."""
    told = [(code(row[0])[0], row[1], *code(row[2]), row[3], set(code(row[4]))) for row in table("escape")]
    wanted = [(each.name, each.words, each.layer.value, each.error, {b.value for b in each.behind}) for each in ESCAPES]
    assert sorted(told, key=str) == sorted(wanted, key=str)
    assert len(told) > 30


@pytest.mark.parametrize("modern", [True, False], ids=["5.8 and newer", "before 5.8"])
def test_capabilities(modern: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capabilities that are needed are those that doctor asks for, with its reasons, on either kind of kernel."""
    rows = {code(row[0])[0]: row[1:] for row in table("capability")}
    assert rows.keys() == _MEANINGS.keys()
    last = (
        privileges.CAPABILITY_NAMES.index("CAP_BPF") + 1
        if modern
        else privileges.CAPABILITY_NAMES.index("CAP_AUDIT_READ")
    )
    told = {name: cells[0 if modern else 1] for name, cells in rows.items()}
    for mounted in (True, False):
        for allowed in (0, 1 << 40):
            monkeypatch.setattr(privileges, "_ring_memory_allowed", lambda value=allowed: value)
            needed = set(privileges.needed_capabilities(last, mounted))
            wanted = {name for name, cell in told.items() if cell == "yes"}
            wanted |= {name for name, cell in told.items() if "tracefs" in cell and not mounted}
            wanted |= {name for name, cell in told.items() if "limits" in cell and not allowed}
            assert needed == wanted


def test_probes_only_read() -> None:
    """No probe calls a helper that changes a process: none of those that the kernel has for that."""
    source = "".join(path.read_text() for path in (ROOT / "bpf").iterdir())
    assert "bpf_perf_event_output" in source
    changing = r"bpf_(probe_write_user|override_return|send_signal\w*|copy_to_user\w*|set_retval|sys_\w+|setsockopt)\b"
    assert re.findall(changing, source) == []


def test_count_of_escapes_in_other_documents() -> None:
    """Where a document says how many escapes there are, it is so."""
    for name in ("README.md", "CHANGELOG.md"):
        assert re.findall(r"(\d+) escapes", (ROOT / name).read_text()) == [str(len(ESCAPES))], name
