"""The libbpf binding against small real BPF programs, and its refusals."""

import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.probes import iterators, libbpf, libbpf_binding

ROOT = Path(__file__).parents[2]

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; } __attribute__((preserve_access_index));
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; } __attribute__((preserve_access_index));
struct task_struct { int tgid; int pid; } __attribute__((preserve_access_index));

volatile const struct { __u64 wanted; __u32 other; } knobs SEC(".rodata.knobs") = {};
__u64 runs;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 64); __type(key, __u32); __type(value, __u64); }
    pids SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u32); }
    per_cpu SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 700);
         __type(key, __u32); __type(value, struct { __u8 bytes[12]; }); } mapped SEC(".maps");

SEC("raw_tp/sched_process_exit") int count(void *ctx)
{
    __u32 zero = 0;
    __u32 *mine = bpf_map_lookup_elem(&per_cpu, &zero);
    if (mine)
        (*mine)++;
    runs++;
    return knobs.wanted + knobs.other;
}
SEC("raw_tp/sched_process_exit") int exited(void *ctx)
{
    __u32 pid = bpf_get_current_pid_tgid() >> 32;
    __u64 one = 1;
    bpf_map_update_elem(&pids, &pid, &one, BPF_ANY);
    return 0;
}
SEC("iter/task") int tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    if (!task)
        return 0;
    int ids[2] = {task->tgid, task->pid};
    bpf_seq_write(ctx->meta->seq, ids, sizeof(ids));
    return 0;
}
#ifdef REFUSED
SEC("raw_tp/sched_process_exit") int wild(void *ctx) { return *(int *)0x10; }
SEC("raw_tp/sched_process_exit") int wilder(void *ctx)
{
    __u32 key = 1;
    __u64 *value = bpf_map_lookup_elem(&pids, &key);
    return *value;
}
SEC("tp_btf/no_such_tracepoint") int nowhere(void *ctx) { return 0; }
#endif
"""

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile SOURCE with the given options."""

    def compiled(*options: str) -> Path:
        directory = tmp_path_factory.mktemp("libbpf")
        source, target = directory / "probe.bpf.c", directory / "probe.bpf.o"
        source.write_text(SOURCE)
        include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        command = ["clang", "-g", "-O2", "-target", "bpf", include, *options, "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    return compiled


@pytest.fixture(scope="module")
def plain(build: Compile) -> Path:
    """An object that loads."""
    return build()


@pytest.fixture(scope="module")
def refused(build: Compile) -> Path:
    """The same with three more programs, each of which no kernel takes."""
    return build("-DREFUSED")


@pytest.fixture
def loaded(plain: Path) -> Iterator[libbpf.Object]:
    """The object that loads, loaded."""
    candidate, without = libbpf.load(plain, knobs={}, optional=())
    assert without == {}
    with candidate:
        yield candidate


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8]), ("\n", [])],
)
def test_lists_of_cpus(text: str, cpus: list[int]) -> None:
    """The kernel's lists of CPUs are read: single numbers, ranges, both, none."""
    assert libbpf.parse_cpus(text) == cpus


def test_cpus_of_this_machine() -> None:
    """The CPUs that are online include those that this process may run on, and are no more than are possible."""
    assert set(os.sched_getaffinity(0)) <= set(libbpf.online_cpus())
    assert len(libbpf.online_cpus()) <= libbpf.possible_cpus()


def test_missing_library_names_the_package() -> None:
    """Without the library there is one line that names it and the package to install."""
    with pytest.raises(libbpf.MissingLibrary, match=r"^libbpf\.so\.77 .*install libbpf 1\.0.*libbpf1") as missing:
        libbpf_binding.Library("libbpf.so.77")
    assert missing.value.errno == errno.ENOENT
    assert "\n" not in str(missing.value)


def test_wrong_library_is_a_missing_one() -> None:
    """A library without libbpf's functions is refused in the same way."""
    with pytest.raises(libbpf.MissingLibrary, match="bpf_object__open_file"):
        libbpf_binding.Library("libc.so.6")


@pytest.mark.parametrize("content", [None, b"", b"no object at all", b"\x7fELF" + bytes(100)])
def test_bad_files_are_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None) -> None:
    """A file that isn't there or is no object is one line with an error number, and nothing appears on stderr."""
    path = tmp_path / "bad.bpf.o"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        libbpf.BpfError,
        match=r"^opening bad\.bpf\.o: (ENOENT \(No such file.*|libbpf error 40\d\d \(.*(ELF|format|elf).*)\)$",
    ) as bad:
        libbpf.Object.open(path)
    assert bad.value.errno > 0
    assert capfd.readouterr() == ("", "")


def test_what_an_object_holds(plain: Path) -> None:
    """Programs, their sections and maps are listed under the names of the source, before any load."""
    with libbpf.Object.open(plain) as opened:
        assert opened.program_names() == ["count", "exited", "tasks"]
        assert opened.sections() == {
            "count": "raw_tp/sched_process_exit",
            "exited": "raw_tp/sched_process_exit",
            "tasks": "iter/task",
        }
        assert {"pids", "per_cpu", "mapped", ".rodata.knobs"} <= set(opened.map_names())


def test_unknown_names_and_sizes_are_errors(plain: Path) -> None:
    """Names that the object does not have, and contents of the wrong size, are refused before libbpf sees them."""
    with libbpf.Object.open(plain) as opened:
        with pytest.raises(libbpf.BpfError, match="no program 'nobody'"):
            opened.set_autoload("nobody", False)
        with pytest.raises(libbpf.BpfError, match="no map 'nothing'"):
            opened.set_max_entries("nothing", 1)
        with pytest.raises(libbpf.BpfError, match=r"'\.rodata\.knobs' holds 16 bytes, not 15"):
            opened.set_map_bytes(".rodata.knobs", bytes(15))
        with pytest.raises(libbpf.BpfError, match="content of map 'pids'"):
            opened.set_map_bytes("pids", bytes(8))


def test_nothing_reaches_libbpf_too_early_or_too_late(plain: Path) -> None:
    """What is not loaded has no descriptors and can't be attached; a closed object answers everything with EBADF."""
    opened = libbpf.Object.open(plain)
    early: list[Callable[[], object]] = [
        lambda: opened.program_fd("count"),
        lambda: opened.attach("count"),
        lambda: opened.attach_iter("tasks"),
        lambda: opened.map("pids"),
    ]
    for call in early:
        with pytest.raises(libbpf.BpfError, match="not loaded"):
            call()
    opened.close()
    opened.close()
    late: list[Callable[[], object]] = [
        *early,
        opened.load,
        opened.sections,
        lambda: opened.set_autoload("count", True),
        lambda: opened.set_max_entries("pids", 3),
        lambda: opened.set_map_bytes(".rodata.knobs", bytes(16)),
        lambda: opened.reuse("pids", 0),
    ]
    for call in late:
        with pytest.raises(libbpf.BpfError, match="closed") as closed:
            call()
        assert closed.value.errno == errno.EBADF


@pytest.mark.live
def test_knobs_reach_the_program(plain: Path) -> None:
    """The program returns the sum of the two knobs that were set before the load, run on each CPU in turn."""
    knobs = {".rodata.knobs": struct.pack("=QI4x", 1000, 9)}
    candidate, _ = libbpf.load(plain, knobs=knobs, optional=(), max_entries={"pids": 129})
    with candidate:
        fd = candidate.program_fd("count")
        assert libbpf.run_program(fd) == 1009
        for cpu in libbpf.online_cpus():
            before = candidate.map("per_cpu").lookup(bytes(4))
            assert libbpf.run_program(fd, cpu) == 1009
            after = candidate.map("per_cpu").lookup(bytes(4))
            assert before is not None
            assert after is not None
            grown = [
                new - old
                for (old,), (new,) in zip(
                    struct.iter_unpack("=Q", before), struct.iter_unpack("=Q", after), strict=True
                )
            ]
            assert [number for number, growth in enumerate(grown) if growth] == [cpu]
            assert sum(grown) == 1
        assert candidate.map("pids").max_entries == 129
        with pytest.raises(libbpf.BpfError, match="after the load"):
            candidate.set_max_entries("pids", 3)


@pytest.mark.live
def test_map_operations(loaded: libbpf.Object) -> None:
    """Values come back as written, absent keys are None and False, sizes are checked, keys are all listed."""
    pids = loaded.map("pids")
    assert (pids.key_size, pids.value_size, pids.max_entries) == (4, 8, 64)
    wanted = {struct.pack("=I", number): struct.pack("=Q", number**3) for number in range(61)}
    for key, value in wanted.items():
        pids.update(key, value)
    assert {key: pids.lookup(key) for key in pids.keys()} == wanted  # noqa: SIM118  # a Map is no dict
    with pytest.raises(libbpf.BpfError) as exists:
        pids.update(bytes(4), bytes(8), flags=1)
    assert exists.value.errno == errno.EEXIST
    assert pids.delete(bytes(4)) is True
    assert pids.delete(bytes(4)) is False
    assert pids.lookup(bytes(4)) is None
    for call in (pids.lookup, pids.delete, lambda key: pids.update(key, bytes(8))):
        with pytest.raises(libbpf.BpfError, match="key of 3 bytes, 4 needed"):
            call(bytes(3))
    with pytest.raises(libbpf.BpfError, match="value of 9 bytes, 8 needed"):
        pids.update(bytes(4), bytes(9))


@pytest.mark.live
def test_values_of_per_cpu_maps(loaded: libbpf.Object) -> None:
    """A per-CPU map gives one value per possible CPU, padded to 8 bytes, and takes no fewer."""
    per_cpu = loaded.map("per_cpu")
    assert per_cpu.value_bytes == 8 * libbpf.possible_cpus()
    value = b"".join(struct.pack("=Q", number + 5) for number in range(libbpf.possible_cpus()))
    per_cpu.update(struct.pack("=I", 1), value)
    assert per_cpu.lookup(struct.pack("=I", 1)) == value
    with pytest.raises(libbpf.BpfError, match="value of 4 bytes"):
        per_cpu.update(bytes(4), bytes(4))


@pytest.mark.live
def test_mapping_shows_what_the_map_holds(loaded: libbpf.Object) -> None:
    """A mapped array shows an update at once, can't be written, and lives on when the object is closed."""
    mapped = loaded.map("mapped")
    with mapped.mmap() as memory:
        mapped.update(struct.pack("=I", 699), b"twelve bytes")
        assert memory[699 * 16 : 699 * 16 + 12] == b"twelve bytes"
        with pytest.raises(TypeError):
            memory[0] = 1
        loaded.close()
        assert memory[699 * 16 : 699 * 16 + 12] == b"twelve bytes"
    with pytest.raises(libbpf.BpfError, match="its object is closed"):
        mapped.lookup(bytes(4))


@pytest.mark.live
def test_only_mmapable_arrays_are_mapped(loaded: libbpf.Object) -> None:
    """A hash map is refused before the kernel is asked."""
    with pytest.raises(libbpf.BpfError, match="'pids' is no mmapable array"):
        loaded.map("pids").mmap()


@pytest.mark.live
def test_attached_until_destroyed(loaded: libbpf.Object) -> None:
    """While the link lives a process that ends is seen with its pid, after destroy() it is not."""
    pids = loaded.map("pids")
    link = loaded.attach("exited")
    assert link.fd > 2
    seen = subprocess.Popen(["true"])
    seen.wait()
    assert pids.lookup(struct.pack("=I", seen.pid)) == struct.pack("=Q", 1)
    link.destroy()
    link.destroy()
    with pytest.raises(libbpf.BpfError, match="destroyed"):
        _ = link.fd
    unseen = subprocess.Popen(["true"])
    unseen.wait()
    assert pids.lookup(struct.pack("=I", unseen.pid)) is None


@pytest.mark.live
def test_closing_the_object_detaches(plain: Path) -> None:
    """An object that is closed leaves no program behind, though its link was never destroyed."""
    candidate, _ = libbpf.load(plain, knobs={}, optional=())
    pids = os.dup(candidate.map("pids").fd)
    try:
        link = candidate.attach("exited")
        candidate.close()
        child = subprocess.Popen(["true"])
        child.wait()
        assert libbpf.Map("pids", pids).lookup(struct.pack("=I", child.pid)) is None
        with pytest.raises(libbpf.BpfError):
            _ = link.fd
    finally:
        os.close(pids)


@pytest.mark.live
def test_iterator_gives_every_task(loaded: libbpf.Object) -> None:
    """The task iterator writes this process and 23 children, each task once; read again, the ended ones are gone."""
    link = loaded.attach_iter("tasks")
    own = (os.getpid(), os.getpid())
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(23)]
    try:
        tasks = list(struct.iter_unpack("=ii", iterators.read_iterator(link)))
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert own in tasks
    assert {(child.pid, child.pid) for child in children} <= set(tasks)
    assert len(set(tasks)) == len(tasks)
    after = set(struct.iter_unpack("=ii", iterators.read_iterator(link)))
    assert own in after
    assert not {(child.pid, child.pid) for child in children} & after


@pytest.mark.live
def test_program_info(loaded: libbpf.Object) -> None:
    """Programs have ids of their own, and nothing was skipped in a program that was never entered twice."""
    first, second = (libbpf.program_info(loaded.program_fd(name)) for name in ("count", "exited"))
    assert 0 < first.id != second.id > 0
    assert first.recursion_misses == 0
    with pytest.raises(libbpf.BpfError):
        libbpf.program_info(0)


@pytest.mark.live
def test_refused_program_is_named_with_its_log(refused: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error says in one line which program and why, carries the verifier's log, and stderr stays empty."""
    with pytest.raises(libbpf.LoadError) as error:
        libbpf.load(refused, knobs={}, optional=("wilder", "nowhere"))
    assert error.value.program == "wild"
    assert error.value.errno > 0
    assert re.fullmatch(
        r"program 'wild' of probe\.bpf\.o refused with E[A-Z]+ \([^)]*\): R\d.* invalid mem access.*", str(error.value)
    )
    assert "invalid mem access" in error.value.log
    assert capfd.readouterr() == ("", "")


@pytest.mark.live
def test_silence_ends(refused: Path) -> None:
    """While libbpf is silent a refusal has no reason and nobody to blame; afterwards it has both again."""
    with libbpf_binding.library().silent(), pytest.raises(libbpf.LoadError) as error:
        libbpf.load(refused, knobs={}, optional=("wilder", "nowhere"))
    assert error.value.program is None
    assert not error.value.log
    assert error.value.errno > 0
    with pytest.raises(libbpf.LoadError, match="program 'wild'"):
        libbpf.load(refused, knobs={}, optional=("wilder", "nowhere"))


@pytest.mark.live
def test_optional_programs_are_left_out(refused: Path) -> None:
    """Each optional program that is refused is switched off with its reason; the rest loads and runs."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    candidate, without = libbpf.load(refused, knobs={}, optional=("wild", "wilder", "nowhere", "count"))
    with candidate:
        assert set(without) == {"wild", "wilder", "nowhere"}
        assert "invalid mem access" in without["wild"]
        assert "no_such_tracepoint" in without["nowhere"]
        assert all("\n" not in reason for reason in without.values())
        assert libbpf.run_program(candidate.program_fd("count")) == 0
        with pytest.raises(libbpf.BpfError, match="'wild' is not loaded"):
            candidate.attach("wild")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.live
def test_disabled_programs_are_not_tried(refused: Path) -> None:
    """Programs that are disabled are neither loaded nor reported as refused."""
    candidate, without = libbpf.load(refused, knobs={}, optional=(), disabled=("wild", "wilder", "nowhere"))
    with candidate:
        assert without == {}
        with pytest.raises(libbpf.BpfError, match="not loaded"):
            candidate.program_fd("wild")


@pytest.mark.live
def test_shared_maps_are_one(plain: Path, loaded: libbpf.Object) -> None:
    """What one object writes into a shared map the other reads; a map of another kind is not taken for it."""
    other, _ = libbpf.load(plain, knobs={}, optional=(), share={"pids": loaded.map("pids").fd})
    with other:
        other.map("pids").update(b"key!", b"a value!")
        assert loaded.map("pids").lookup(b"key!") == b"a value!"
        other.map("per_cpu").update(bytes(4), bytes([7]) * 8 * libbpf.possible_cpus())
        assert loaded.map("per_cpu").lookup(bytes(4)) == bytes(8 * libbpf.possible_cpus())
    with pytest.raises(libbpf.BpfError, match="'pids' can't be shared"):
        libbpf.load(plain, knobs={}, optional=(), share={"pids": loaded.map("mapped").fd})
    assert loaded.map("pids").lookup(b"key!") == b"a value!"


@pytest.mark.live
def test_without_privilege_the_load_is_refused(plain: Path) -> None:
    """An ordinary user gets EPERM in one line, not a crash and not a traceback."""
    program = f"""
import os, sys
from pathlib import Path
from tracer.probes import libbpf
from tracer.probes.libbpf_binding import library
opened = libbpf.Object.open(Path({str(plain)!r}))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    opened.load()
except libbpf.LoadError as refused:
    print(refused.errno, refused)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith(f"{errno.EPERM} probe.bpf.o refused with EPERM ")
