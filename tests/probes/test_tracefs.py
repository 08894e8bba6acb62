"""Tracepoint ids from tracefs, mounted or not, and programs attached by them."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.probes import libbpf, tracefs

ROOT = Path(__file__).parents[2]
CALLS = 23

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
volatile const __u32 caller SEC(".rodata.caller") = 0;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, __u64); }
    calls SEC(".maps");
SEC("tp/syscalls/sys_exit_getppid") int called(void *ctx)
{
    __u32 cpu = bpf_get_smp_processor_id();
    __u64 *count = bpf_map_lookup_elem(&calls, &cpu);
    if (count && bpf_get_current_pid_tgid() >> 32 == caller)
        (*count)++;
    return 0;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SOURCE, compiled."""
    directory = tmp_path_factory.mktemp("tracefs")
    source, target = directory / "calls.bpf.c", directory / "calls.bpf.o"
    source.write_text(SOURCE)
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(["clang", "-g", "-O2", "-target", "bpf", include, "-c", source, "-o", target], check=True)
    return target


@pytest.fixture
def events() -> Iterator[int]:
    """The directory of all tracepoints."""
    fd = tracefs.open_events()
    assert fd is not None
    yield fd
    os.close(fd)


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def in_mount_namespace(script: str) -> str:
    """What a shell script prints whose mounts nobody else sees."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


ID = f"""{sys.executable} -c '
from tracer.probes import tracefs
print(tracefs.tracepoint_id(tracefs.open_events(), "syscalls", "sys_exit_getppid"))'"""
UNMOUNT = "umount -q -l /sys/kernel/tracing /sys/kernel/debug/tracing /sys/kernel/debug || :"


@pytest.mark.live
def test_id_is_the_same_mounted_or_not() -> None:
    """The id of a tracepoint is what its file in a mounted tracefs says, and the same without any mount."""
    mounted = in_mount_namespace(
        f"{UNMOUNT}\n mount -t tracefs nodev /sys/kernel/tracing\n"
        f"cat /sys/kernel/tracing/events/syscalls/sys_exit_getppid/id\n{ID}"
    )
    unmounted = in_mount_namespace(f"{UNMOUNT}\n{ID}")
    assert mounted.split() == [unmounted.strip()] * 2
    assert int(unmounted) > 0


@pytest.mark.live
def test_nothing_is_mounted_for_others_to_see() -> None:
    """While our own instance is open the mount table is what it was."""
    shown = in_mount_namespace(
        f"{UNMOUNT}\n{sys.executable} -c '\n"
        "from pathlib import Path\n"
        "from tracer.probes import tracefs\n"
        'before = Path("/proc/self/mountinfo").read_text()\n'
        "assert tracefs.open_events() is not None\n"
        'print(before == Path("/proc/self/mountinfo").read_text())\''
    )
    assert shown == "True\n"


@pytest.mark.live
@pytest.mark.parametrize(("category", "name"), [("syscalls", "sys_exit_nosuch"), ("nosuch", "nosuch"), ("sched", "")])
def test_unknown_tracepoint_has_no_id(events: int, category: str, name: str) -> None:
    """What is no tracepoint has no id, and that is no error."""
    assert tracefs.tracepoint_id(events, category, name) is None


@pytest.mark.live
def test_ordinary_user_gets_nothing() -> None:
    """Without any privilege there is no descriptor, no exception, and nothing left open."""
    program = """
import os
from tracer.probes import tracefs
os.setgroups([]); os.setgid(65534); os.setuid(65534)
before = os.listdir("/proc/self/fd")
print(tracefs.open_events(), os.listdir("/proc/self/fd") == before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("None True\n", "")


@pytest.mark.live
def test_program_runs_on_every_cpu_until_detached(compiled: Path, events: int) -> None:
    """One event is enough for all CPUs: each one's calls are counted, and none after the link is gone."""
    number = tracefs.tracepoint_id(events, "syscalls", "sys_exit_getppid")
    assert number is not None
    allowed = os.sched_getaffinity(0)
    with libbpf.Object.open(compiled) as program:
        program.set_map_bytes(".rodata.caller", os.getpid().to_bytes(4, sys.byteorder))
        program.load()
        before = descriptors()
        link = program.attach_tracepoint("called", number)
        calls = program.map("calls")

        def counted() -> list[int]:
            found = [calls.lookup(cpu.to_bytes(4, sys.byteorder)) for cpu in sorted(allowed)]
            return [int.from_bytes(value or b"", sys.byteorder) for value in found]

        try:
            for cpu in allowed:
                os.sched_setaffinity(0, {cpu})
                for _ in range(CALLS):
                    os.getppid()
        finally:
            os.sched_setaffinity(0, allowed)
        assert counted() == [CALLS] * len(allowed)
        link.destroy()
        os.getppid()
        assert counted() == [CALLS] * len(allowed)
        assert descriptors() == before


@pytest.mark.live
def test_unknown_id_is_one_error(compiled: Path) -> None:
    """An id that no tracepoint has is refused in one line, and no descriptor stays open."""
    with libbpf.Object.open(compiled) as program:
        program.load()
        before = descriptors()
        with pytest.raises(libbpf.BpfError, match=r"^attaching 'called' to tracepoint 99999999: E\w+") as refused:
            program.attach_tracepoint("called", 99999999)
        assert refused.value.errno in (errno.EINVAL, errno.ENOENT)
        assert descriptors() == before


@pytest.mark.live
def test_only_loaded_tracepoint_programs_attach(compiled: Path, events: int) -> None:
    """A program that isn't loaded is an error before libbpf sees it."""
    number = tracefs.tracepoint_id(events, "syscalls", "sys_exit_getppid")
    assert number is not None
    with libbpf.Object.open(compiled) as program, pytest.raises(libbpf.BpfError, match="is not loaded"):
        program.attach_tracepoint("called", number)
