"""Programs at the return of kernel functions: which take the place of tracepoints, when, and what is blind then."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.probes.test_core import BUFFER, EVERYTHING, SYSCALL_HOOKS
from tracer.probes import core, hooks, libbpf, tracefs
from tracer.probes.backend import Coverage, object_file
from tracer.probes.core import Core
from tracer.probes.health import Watch
from tracer.probes.hooks import MOVES, OPTIONAL, PAYLOADS, RETURNS, RING, STREAM, UNASKED, blind_spots
from tracer.probes.libbpf_binding import BpfError, LoadError
from tracer.probes.privileges import Privileges
from tracer.probes.program import attach_at_return, fexit_refusal
from tracer.probes.trials import hooks as tried_hooks

ROOT = Path(__file__).parents[2]
HOOKS = {hook.program for hooks_of in OPTIONAL.values() for hook in hooks_of}
MAIN = {program for returns in RETURNS for program in returns.programs}
MORE = {program for returns in RETURNS for program, _ in returns.more}
AGAIN = {program: function for returns in RETURNS for program, function in returns.again}
REPLACED = {program for returns in RETURNS for program in returns.replaces}
UNLIKE = [*dict.fromkeys(blind for returns in RETURNS for blind in returns.unlike)]
ALWAYS = {"syn_again"}
BYTES = [hook for hooks_of in (*MOVES.values(), *PAYLOADS.values()) for hook in hooks_of]
BLIND_TO_BYTES = [*dict.fromkeys(hook.blind for hook in BYTES)]


@pytest.fixture(autouse=True)
def _newer_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told by the kernel's release alone is that of a newer one."""
    monkeypatch.setattr(hooks, "_release", lambda: (6, 18))


# The tables.


def test_tables_are_about_programs_that_there_are() -> None:
    """Every program in the table is in the source, at the function that its name tells, and replaces a tracepoint."""
    source = (ROOT / "bpf/returns.bpf.c").read_text()
    programs = set(re.findall(r"\b(?:int |BPF_PROG\(|EXEC_RETURNS\()(\w+_(?:returns|denied|killed))\b", source))
    assert programs == MAIN | MORE
    assert {hook.program for hooks_of in OPTIONAL.values() for hook in hooks_of if hook.tracepoint} == REPLACED
    assert sum(len(returns.replaces) for returns in RETURNS) == len(REPLACED)
    assert not (MAIN | MORE) & (HOOKS | {program for programs in STREAM.values() for program in programs})


def test_nothing_attached_is_all_blind() -> None:
    """Without any of them each thing that one of them sees is a blind spot, told once."""
    found = blind_spots([])
    assert len(set(found)) == len(found)
    for hooks_of in OPTIONAL.values():
        assert {hook.blind for hook in hooks_of} <= set(found)
    for returns in RETURNS:
        assert set(returns.blind) <= set(found)
    assert set(BLIND_TO_BYTES) < set(found)


def test_all_returns_leave_little_blind() -> None:
    """With all of them, and no tracepoint of system calls, what no hook shows is left, and what never gets that far."""
    assert blind_spots(MAIN | MORE | ALWAYS) == [*UNLIKE, *BLIND_TO_BYTES]
    assert len(UNLIKE) == 1


def test_who_does_not_ask_is_always_blind() -> None:
    """With all that counts bytes one thing is left; without what tells senders it is among what is said of that."""
    counting = {hook.program for hook in BYTES}
    assert blind_spots(MAIN | MORE | ALWAYS | counting) == [*UNLIKE, UNASKED]
    assert UNASKED not in blind_spots((MAIN | MORE | ALWAYS | counting) - {"datagram_came"})


def test_tracepoints_see_less() -> None:
    """With the tracepoints in their place, what only the functions' returns show is blind: io_uring, 32-bit calls."""
    found = blind_spots(HOOKS)
    assert set(found) == {blind for returns in RETURNS for blind in returns.blind} | set(BLIND_TO_BYTES)
    assert any("io_uring" in each for each in found)
    assert any("32-bit" in each for each in found)


@pytest.mark.parametrize("program", sorted(MORE))
def test_each_addition_is_missed(program: str) -> None:
    """One of those beside them that is missing is one blind spot more."""
    found = blind_spots((MAIN | MORE | ALWAYS) - {program})
    assert len(found) == len(UNLIKE) + len(BLIND_TO_BYTES) + 1


@pytest.mark.parametrize("release", ["5.10.0-32-cloud-amd64", "5.15.200", "4.18.0-553.el8"])
def test_killed_execs_on_older_kernels(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Before 5.16 the tracepoints don't see execs that seccomp kills; the other way does."""
    monkeypatch.undo()
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type(real)((*real[:2], release, *real[3:])))
    assert any("seccomp killed" in each for each in blind_spots(HOOKS))
    assert not any("seccomp killed" in each for each in blind_spots(MAIN | MORE | ALWAYS))


def test_accepts_of_rings() -> None:
    """With the tracepoint of io_uring what is left of its accepts is less, and said in place of all of them."""
    without, beside = blind_spots(HOOKS), blind_spots(HOOKS | {RING.program})
    (gone,) = set(without) - set(beside)
    assert "accepted a connection through io_uring" in gone
    assert set(beside) - set(without) == {RING.blind}


# The choice.


class FakeLink:
    """A program that is attached until it is destroyed."""

    fd = -1  # nothing can be asked about it

    def __init__(self, attached: set[str], program: str) -> None:
        self._attached, self._program = attached, program
        attached.add(program)

    def destroy(self) -> None:
        """As a link's."""
        self._attached.discard(self._program)


class FakeReturns:
    """The object of returns.bpf.c, or of again.bpf.c, on a kernel that refuses to attach some of it."""

    def __init__(self, refuses: Collection[str]) -> None:
        self.attached: set[str] = set()
        self.refuses = refuses

    def program_names(self) -> list[str]:
        """All of them."""
        return sorted(MAIN | MORE | AGAIN.keys())

    def sections(self) -> dict[str, str]:
        """Any."""
        return {name: f"fexit/{name}" for name in self.program_names()}

    def program_fd(self, program: str) -> int:
        """A number for each; nobody looks behind it."""
        return 1000 + self.program_names().index(program)

    def attach(self, program: str) -> FakeLink:
        """Unless it is refused."""
        if program in self.refuses:
            raise BpfError(f"attaching {program!r}: EBUSY", errno.EBUSY)
        return FakeLink(self.attached, program)

    def close(self) -> None:
        """Nothing is left to close."""


def on_kernel(
    monkeypatch: pytest.MonkeyPatch, unloadable: Collection[str] = (), refuses: Collection[str] = ()
) -> FakeReturns:
    """As on a kernel that runs these programs, but for some that it does not load or not attach."""
    fake = FakeReturns(refuses)
    real = libbpf.load

    def load(path: Path, **options: Any) -> tuple[Any, dict[str, str]]:
        if path.name == "again.bpf.o" and "again" not in unloadable:
            return fake, {}
        if path.name == "again.bpf.o":
            raise LoadError("again.bpf.o refused", errno.EINVAL, None, "log")
        if path.name != "returns.bpf.o":
            return real(path, **options)
        for program in set(unloadable) - {"again"}:
            if program not in options["optional"]:
                raise LoadError(f"program {program!r} refused", errno.EINVAL, program, "log")
        return fake, dict.fromkeys(set(unloadable) - {"again"}, "not this kernel")

    def attach_at_return(program_fd: int, function: str) -> FakeLink:
        program = fake.program_names()[program_fd - 1000]
        assert AGAIN[program] == function
        return fake.attach(program)

    keep = Watch.keep
    monkeypatch.setattr(Watch, "keep", lambda self, name, fd: keep(self, name, fd) if fd >= 0 else None)
    monkeypatch.setattr(core, "fexit_refusal", lambda: None)
    monkeypatch.setattr(core, "attach_at_return", attach_at_return)
    monkeypatch.setattr(libbpf, "load", load)
    return fake


def backend(hooks_wanted: str = "auto") -> Core:
    """A backend that asks for everything."""
    return Core(EVERYTHING, BUFFER, 64 << 10, hooks=hooks_wanted)


def blind(coverage: Coverage) -> list[str]:
    """What is blind by the choice of hooks; the kernel of some hosts hides process 1 besides."""
    return [each for each in coverage.blind if "process 1" not in each and each != UNASKED]


@pytest.mark.live
def test_they_take_the_place_of_all_tracepoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all load and attach, no tracepoint of a system call is attached, and nobody looks for tracefs."""
    fake = on_kernel(monkeypatch)
    monkeypatch.setattr(tracefs, "open_events", lambda: pytest.fail("tracefs is not needed"))
    with backend() as chosen:
        coverage = chosen.start()
        assert fake.attached == MAIN | MORE
        chosen.detach()
        assert fake.attached == set()
    assert coverage.hooks.keys() >= MAIN | MORE
    assert not coverage.hooks.keys() & SYSCALL_HOOKS
    assert coverage.refused == {}
    assert blind(coverage) == UNLIKE


@pytest.mark.live
@pytest.mark.parametrize("how", ["unloadable", "refuses"])
@pytest.mark.parametrize("program", ["connect_returns", "execveat_returns"])
def test_one_that_is_refused_leaves_its_tracepoints(monkeypatch: pytest.MonkeyPatch, program: str, how: str) -> None:
    """A refusal, at load or attach, leaves what it would have replaced in place, and the other choices as they are."""
    fake = on_kernel(monkeypatch, **{how: [program]})
    mine = next(returns for returns in RETURNS if program in returns.programs)
    with backend() as chosen:
        coverage = chosen.start()
        others = {name for each in RETURNS if each is not mine for name in (*each.programs, *dict(each.more))}
        assert fake.attached == others
    assert coverage.hooks.keys() & SYSCALL_HOOKS == set(mine.replaces)
    assert set(coverage.refused) == {program}
    assert set(blind(coverage)) == {*mine.blind, *UNLIKE}


@pytest.mark.live
@pytest.mark.parametrize("program", sorted(MORE))
@pytest.mark.parametrize("how", ["unloadable", "refuses"])
def test_additions_are_not_needed(monkeypatch: pytest.MonkeyPatch, program: str, how: str) -> None:
    """One of those beside them that is refused is a blind spot, and no tracepoint comes back for it."""
    on_kernel(monkeypatch, **{how: [program]})
    with backend() as chosen:
        coverage = chosen.start()
    assert not coverage.hooks.keys() & SYSCALL_HOOKS
    assert set(coverage.refused) == {program}
    assert len(blind(coverage)) == len(UNLIKE) + 1


@pytest.mark.live
def test_stand_ins_where_programs_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tracepoints can be preempted each has its stand-in at the return of a function, and no tracepoint is."""
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: True)
    fake = on_kernel(monkeypatch)
    with backend() as chosen:
        coverage = chosen.start()
        assert fake.attached == MAIN | MORE | AGAIN.keys()
        chosen.detach()
        assert fake.attached == set()
    assert coverage.hooks.keys() >= MAIN | MORE | AGAIN.keys()
    assert not coverage.hooks.keys() & SYSCALL_HOOKS
    assert blind(coverage) == UNLIKE


@pytest.mark.live
@pytest.mark.parametrize("program", sorted(AGAIN))
def test_stand_in_that_is_refused(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Where one of them can't be attached the tracepoints stand in, beside the programs that they stand in for."""
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: True)
    fake = on_kernel(monkeypatch, refuses=[program])
    mine = next(returns for returns in RETURNS if program in dict(returns.again))
    with backend() as chosen:
        coverage = chosen.start()
        assert fake.attached == MAIN | MORE | AGAIN.keys() - dict(mine.again).keys()
    assert coverage.hooks.keys() & SYSCALL_HOOKS == set(mine.replaces)
    assert set(coverage.refused) == {mine.again[0][0]}


@pytest.mark.live
def test_no_stand_in_at_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that loads none of them has the tracepoints beside the programs that can be skipped."""
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: True)
    fake = on_kernel(monkeypatch, unloadable=["again"])
    with backend() as chosen:
        coverage = chosen.start()
        assert fake.attached == MAIN | MORE
    assert coverage.hooks.keys() >= SYSCALL_HOOKS
    assert "again" in coverage.refused


@pytest.mark.live
def test_kernel_verifies_the_stand_ins() -> None:
    """This kernel takes the programs, even if it may have no means to attach them: that is answered, not raised."""
    loaded, refused = libbpf.load(object_file("again"), knobs={}, optional=())
    try:
        assert refused == {}
        assert set(loaded.program_names()) == AGAIN.keys()
        try:
            attach_at_return(loaded.program_fd("accept_again"), AGAIN["accept_again"]).destroy()
        except BpfError as error:
            assert "inet_csk_accept" in str(error)  # noqa: PT017  # either answer is right, a crash is not
    finally:
        loaded.close()


@pytest.mark.live
def test_first_one_refused_is_all_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first can't be loaded, for it looks whether they are safe here, all tracepoints stay."""
    first = RETURNS[0].programs[0]
    fake = on_kernel(monkeypatch, unloadable=[first])
    with backend() as chosen:
        coverage = chosen.start()
        assert fake.attached == set()
    assert coverage.hooks.keys() >= SYSCALL_HOOKS
    assert set(coverage.refused) == {first}


@pytest.mark.live
def test_tracepoints_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for tracepoints, nothing else is tried, and nothing is refused."""
    fake = on_kernel(monkeypatch)
    with backend("tracepoints") as chosen:
        coverage = chosen.start()
        assert fake.attached == set()
    assert coverage.hooks.keys() >= SYSCALL_HOOKS
    assert coverage.refused == {}


@pytest.mark.live
def test_refusal_at_once_is_what_a_real_try_gives() -> None:
    """The quick question and a program that is really loaded agree about this kernel, and one line tells of it."""
    refusal = fexit_refusal()
    may = Privileges(frozenset({"CAP_SYS_ADMIN"}), 40, True, 0)
    tried = tried_hooks(may)["fexit"]
    if refusal is not None:
        assert tried.facts["errno"] == errno.errorcode[refusal.errno]
    with backend() as chosen:
        coverage = chosen.start()
    assert ("fexit" in coverage.refused) is (refusal is not None)
    if refusal is None:
        assert tried.facts["step"] is None or RETURNS[0].programs[0] in coverage.refused
    else:
        assert coverage.hooks.keys() >= SYSCALL_HOOKS


@pytest.mark.live
def test_hooks_that_are_unknown_are_a_mistake_of_usage() -> None:
    """Another word for --hooks is answered with those that there are, and code 2."""
    command = [sys.executable, "-m", "tracer", "live", "--hooks", "kprobes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "auto, tracepoints" in done.stderr
