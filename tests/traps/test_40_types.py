"""Trap 40: layouts of tracepoints differ between distributions."""

import re
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "bpf").glob("*.[ch]"))
PROGRAM = re.compile(r"SEC\(\"(?P<section>[^\"]+)\"\)\s*(?P<head>[^{;]*)[{;]")
# Types that the kernel's own type information describes, and that libbpf therefore relocates.
TYPED = re.compile(
    r"struct\s+(trace_event_raw_\w+|bpf_iter__\w+|pt_regs|bpf_raw_tracepoint_args)\b|BPF_PROG\(|void\s*\*"
)
# The first members of every tracepoint record: who writes them out has copied a layout.
COPIED = re.compile(
    r"common_(type|flags|preempt_count|pid)\b|unsigned\s+(short|long|int)\s+\w*(__syscall_nr|syscall_nr)"
)


def code(path: Path) -> str:
    """A source without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.DOTALL)


def test_sources_are_found() -> None:
    """There are sources, and they hold programs on tracepoints: the other tests look at something."""
    assert SOURCES
    found = [match["section"] for path in SOURCES for match in PROGRAM.finditer(code(path))]
    assert any(section.startswith(("tp/", "tracepoint/", "raw_tp/", "tp_btf/")) for section in found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.name))
def test_no_hand_declared_layout(path: Path) -> None:
    """No file declares what a tracepoint's record looks like; classic tracepoints get the kernel's own types."""
    text = code(path)
    assert not COPIED.search(text)
    for match in PROGRAM.finditer(text):
        if match["section"].startswith(("tp/", "tracepoint/")):
            assert TYPED.search(match["head"]), match[0]
            untyped = re.search(r"\(\s*(const\s+)?void\s*\*", match["head"])
            assert "trace_event_raw_" in match["head"] or untyped, match[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.name))
def test_no_context_is_cast_to_a_layout(path: Path) -> None:
    """Where a context is cast, it is to a type of the kernel's."""
    for match in re.finditer(r"\(\s*(?:const\s+)?struct\s+(\w+)\s*\*\s*\)\s*ctx\b", code(path)):
        assert match[1].startswith(("trace_event_raw_", "bpf_")), match[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.name))
def test_declared_types_are_relocatable(path: Path) -> None:
    """Each trace_event_raw_* type that is written down is marked to be relocated: its offsets are the kernel's."""
    text = code(path)
    for match in re.finditer(r"struct\s+trace_event_raw_\w+\s*\{[^}]*\}\s*(?P<after>[^;]*);", text):
        before = text[: match.start()]
        region = before.count("#pragma clang attribute push") > before.count("#pragma clang attribute pop")
        assert region or "preserve_access_index" in match["after"], match[0]
