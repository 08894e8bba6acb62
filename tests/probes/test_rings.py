"""The ring reader against hand-made runs, and against a real BPF program that counts what it emits."""

import os
import resource
import select
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tracer.probes import libbpf
from tracer.probes.rings import PAYLOAD_OFFSET, RingError, RingSet, Run, ring_bytes, split

PAGE = resource.getpagesize()

# Emits `count` records on the CPU it runs on; the size of each depends on its number, and its bytes on its size.
# The results are of its own counting: emitted and failed per CPU, in an array that can be mapped.
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } small SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } large SEC(".maps");
struct result { __u64 emitted, failed; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(map_flags, BPF_F_MMAPABLE); __uint(max_entries, 256);
         __type(key, __u32); __type(value, struct result); } results SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __type(value, struct { __u8 bytes[1024]; }); } scratch SEC(".maps");

static __always_inline int emit(void *ctx, void *map)
{
    __u64 *arg = ctx, count = arg[0], step = arg[1];
    __u32 cpu = bpf_get_smp_processor_id(), zero = 0;
    struct result *result = bpf_map_lookup_elem(&results, &cpu);
    __u8 *scratch_bytes = bpf_map_lookup_elem(&scratch, &zero);
    if (!result || !scratch_bytes)
        return -1;
    for (__u32 i = 0; i < 1100; i++) {
        if (i >= count)
            break;
        __u64 size = 16 + ((i * step) & 511);
        *(__u64 *)scratch_bytes = i;
        *(__u32 *)(scratch_bytes + 8) = size;
        *(__u32 *)(scratch_bytes + 12) = cpu;
        if (bpf_perf_event_output(ctx, map, BPF_F_CURRENT_CPU, scratch_bytes, size))
            result->failed++;
        else
            result->emitted++;
    }
    return 0;
}
SEC("raw_tp/sched_process_exit") int emit_small(void *ctx) { return emit(ctx, &small); }
SEC("raw_tp/sched_process_exit") int emit_large(void *ctx) { return emit(ctx, &large); }
"""


def sample(payload: bytes) -> bytes:
    """A PERF_RECORD_SAMPLE as the kernel writes it: padded, so that the next one begins at 8 bytes."""
    raw = payload + bytes(-(len(payload) + 4) % 8)
    return struct.pack("<IHHI", 9, 1, 12 + len(raw), len(raw)) + raw


def lost(count: int) -> bytes:
    """A PERF_RECORD_LOST."""
    return struct.pack("<IHHQQ", 2, 0, 24, 77, count)


def other() -> bytes:
    """A PERF_RECORD_THROTTLE, which carries nothing of ours."""
    return struct.pack("<IHHQQQ", 5, 0, 32, 1, 2, 3)


def test_split_finds_samples_and_sums_losses() -> None:
    """Payload positions come in order, losses are summed, other kinds of records are passed over."""
    payloads = [bytes([number]) * size for number, size in enumerate((4, 5, 100, 1000, 12))]
    parts = [lost(3), *(sample(payload) for payload in payloads[:3]), other(), lost(40), *map(sample, payloads[3:])]
    data = b"".join(parts)
    found = split(data)
    assert [data[at : at + len(payload)] for at, payload in zip(found.offsets, payloads, strict=True)] == payloads
    assert found.lost == 43
    assert found.end == len(data)


def test_split_of_nothing() -> None:
    """A run without bytes has no records."""
    assert split(b"") == ([], 0, 0)


def test_split_leaves_out_what_is_cut() -> None:
    """Wherever a run is cut, exactly the records that are whole before the cut are found."""
    parts = [sample(b"a" * 20), lost(5), sample(b"b" * 60), other(), lost(7), sample(b"c")]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    for cut in range(len(data) + 1):
        whole = [part for part, end in zip(parts, ends, strict=True) if end <= cut]
        found = split(data[:cut])
        assert found.end == sum(map(len, whole))
        assert len(found.offsets) == sum(part[0] == 9 for part in whole)
        assert found.lost == sum(part[16] for part in whole if part[0] == 2)


@pytest.mark.parametrize("kind", [9, 2, 5])
def test_split_refuses_endless_records(kind: int) -> None:
    """A record of no length, which would be walked for ever, is an error that says where."""
    data = sample(b"first") + struct.pack("<IHH", kind, 0, 0) + bytes(64)
    with pytest.raises(RingError, match=r"without length at byte 24\b"):
        split(data)


@pytest.mark.parametrize(
    ("total", "cpus", "expected"),
    [
        (0, 2, 1),
        (PAGE, 2, 1),
        (2 * PAGE, 2, 1),
        (5 * PAGE, 2, 2),
        (8 * PAGE, 1, 8),
        (15 * PAGE, 1, 8),
        (1024 * PAGE, 3, 256),
        (PAGE, 0, 1),
    ],
)
def test_ring_bytes(total: int, cpus: int, expected: int) -> None:
    """A CPU's share is a power of two of pages, never more than its part of the total but for the first page."""
    assert ring_bytes(total, cpus) == expected * PAGE


class Emitter(NamedTuple):
    """The loaded program with the means to run it on a CPU and to read what it counted there."""

    loaded: libbpf.Object

    def run(self, count: int, *, cpu: int, step: int = 0, large: bool = False) -> None:
        """Emit `count` records on `cpu`, the n-th with a payload of 16 + (n * step) % 512 bytes."""
        fd = self.loaded.program_fd("emit_large" if large else "emit_small")
        assert libbpf.run_program(fd, cpu, struct.pack("=QQ", count, step)) == 0

    def counted(self, cpu: int) -> tuple[int, int]:
        """How many records the program itself says it emitted and failed to emit on `cpu`, ever."""
        value = self.loaded.map("results").lookup(struct.pack("=I", cpu))
        assert value is not None
        emitted, failed = struct.unpack("=QQ", value)
        return emitted, failed

    def buffers(self) -> dict[str, int]:
        """The two perf buffers by name."""
        return {name: self.loaded.map(name).fd for name in ("small", "large")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emitting program, compiled."""
    directory = tmp_path_factory.mktemp("emit")
    source = directory / "emit.bpf.c"
    source.write_text(SOURCE)
    target = directory / "emit.bpf.o"
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    command = [
        "clang",
        "-g",
        "-O2",
        "-Wall",
        "-Werror",
        "-target",
        "bpf",
        include,
        "-c",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    return target


@pytest.fixture
def emitter(compiled: Path) -> Iterator[Emitter]:
    """The emitting program, loaded."""
    loaded, refused = libbpf.load(compiled, knobs={}, optional=())
    assert refused == {}
    with loaded:
        yield Emitter(loaded)


def opened(emitter: Emitter, pages: int, watermark: int = PAGE) -> RingSet:
    """Rings of so many pages on each CPU for both buffers."""
    size = pages * PAGE * len(libbpf.online_cpus())
    return RingSet.open(emitter.buffers(), bytes_total={"small": size, "large": size}, watermark=watermark)


def numbers(run: Run) -> list[int]:
    """The numbers in the records of a run, each record checked byte by byte against what the program writes."""
    found = []
    for at in run.offsets:
        number, size, cpu = struct.unpack_from("=QII", run.data, at)
        assert cpu == run.cpu
        padded = struct.unpack_from("=I", run.data, at - 4)[0]
        assert padded == size + (-(size + 4) % 8)
        assert struct.unpack_from("=H", run.data, at - PAYLOAD_OFFSET + 6)[0] == padded + PAYLOAD_OFFSET
        found.append(number)
    return found


@pytest.mark.live
def test_every_record_of_every_size_on_every_cpu(emitter: Emitter) -> None:
    """503 records of many sizes from each CPU arrive once, in order, in the ring of their CPU and buffer."""
    with opened(emitter, 64) as rings:
        for cpu in rings.cpus:
            emitter.run(503, cpu=cpu, step=37)
            emitter.run(101, cpu=cpu, large=True)
        runs = rings.read()
        assert {(run.cpu, rings.names[run.ring]): numbers(run) for run in runs} == {
            (cpu, name): list(range(count)) for cpu in rings.cpus for name, count in (("small", 503), ("large", 101))
        }
        assert all(run.drained and run.records_lost == 0 for run in runs)
        assert all(emitter.counted(cpu) == (604, 0) for cpu in rings.cpus)
        assert rings.read() == []


@pytest.mark.live
def test_one_page_ring_wraps(emitter: Emitter) -> None:
    """A ring of one page gives 8 * 499 records whole although most turns of it end in the middle of a record."""
    with opened(emitter, 1) as rings:
        cpu = rings.cpus[-1]
        taken = 0
        for turn in range(499):
            emitter.run(8, cpu=cpu, step=41 + turn % 7)
            (run,) = rings.read()
            assert numbers(run) == list(range(8))
            assert run.records_lost == 0
            taken += len(run.data)
        assert taken > 100 * PAGE
        assert taken % PAGE != 0
        assert emitter.counted(cpu) == (8 * 499, 0)


@pytest.mark.live
def test_overflow_is_counted_exactly(emitter: Emitter) -> None:
    """What does not fit is in the LOST records, which agree with the program's own count of failures, per CPU."""
    with opened(emitter, 2) as rings:
        delivered: Counter[int] = Counter()
        losses: Counter[int] = Counter()
        for _ in range(5):
            for cpu in rings.cpus:
                emitter.run(307 + cpu, cpu=cpu, step=29)
            for run in rings.read():
                delivered[run.cpu] += len(numbers(run))
                losses[run.cpu] += run.records_lost
        for cpu in rings.cpus:
            emitter.run(1, cpu=cpu)  # the kernel tells of a loss with the next record that fits
        for run in rings.read():
            delivered[run.cpu] += len(numbers(run))
            losses[run.cpu] += run.records_lost
        for cpu in rings.cpus:
            emitted, failed = emitter.counted(cpu)
            assert emitted + failed == 5 * (307 + cpu) + 1
            assert failed > 0
            assert (delivered[cpu], losses[cpu]) == (emitted, failed)


@pytest.mark.live
@pytest.mark.parametrize("limit", [1, 40, 1000, PAGE, 10 * PAGE])
def test_bounded_reads_lose_nothing(emitter: Emitter, limit: int) -> None:
    """Reads of at most `limit` bytes end on a record, say when there is more, and together give everything once."""
    with opened(emitter, 16) as rings:
        cpu = rings.cpus[0]
        emitter.run(211, cpu=cpu, step=13)
        together: list[int] = []
        for _ in range(211):
            (run,) = rings.read(limit)
            together += numbers(run)
            assert len(run.data) <= limit or len(run.offsets) == 1
            if run.drained:
                break
        assert together == list(range(211))
        assert rings.read(limit) == []


@pytest.mark.live
def test_consistent_cut(emitter: Emitter) -> None:
    """Reading to heads taken earlier gives what was there then and nothing later; the rest comes with the next read."""
    with opened(emitter, 16) as rings:
        cpu = rings.cpus[0]
        emitter.run(17, cpu=cpu, step=5)
        cut = rings.heads()
        emitter.run(23, cpu=cpu, step=5)
        assert sum(len(rings.read_to(ring, head).offsets) for ring, head in cut) == 17
        assert all(rings.read_to(ring, head).data == b"" for ring, head in cut)
        assert [numbers(run) for run in rings.read()] == [list(range(23))]


@pytest.mark.live
def test_poller_is_woken_by_the_watermark_alone(emitter: Emitter) -> None:
    """Records below the watermark wake nobody but are there to read; passing it wakes the poller."""
    with opened(emitter, 16, watermark=PAGE) as rings:
        cpu = rings.cpus[-1]
        emitter.run(11, cpu=cpu)
        assert not rings.poll(50)
        assert [len(run.offsets) for run in rings.read()] == [11]
        emitter.run(1009, cpu=cpu)
        assert rings.poll(5000)
        assert len(rings.fds) == 2 * len(rings.cpus)


@pytest.mark.live
def test_watermark_above_the_ring_still_wakes(emitter: Emitter) -> None:
    """A watermark larger than the ring is cut to half of it: a poller is woken before anything is lost."""
    with opened(emitter, 1, watermark=1 << 30) as rings:
        cpu = rings.cpus[0]
        emitter.run(PAGE * 3 // 4 // 40, cpu=cpu)
        assert rings.poll(5000)
        assert emitter.counted(cpu)[1] == 0


@pytest.mark.live
def test_cpus_without_rings_are_counted_and_added(emitter: Emitter) -> None:
    """A CPU without a ring makes the program fail and count; add_missing_cpus opens its rings, once."""
    every = libbpf.online_cpus()
    size = {"small": 4 * PAGE, "large": 4 * PAGE}
    with RingSet.open(emitter.buffers(), bytes_total=size, watermark=PAGE, cpus=every[:1]) as rings:
        for cpu in every:
            emitter.run(7, cpu=cpu)
        assert {cpu: emitter.counted(cpu) for cpu in every} == {
            cpu: (7, 0) if cpu == every[0] else (0, 7) for cpu in every
        }
        assert [(ring.cpu, ring.name) for ring in rings.add_missing_cpus()] == [
            (cpu, name) for cpu in every[1:] for name in ("small", "large")
        ]
        assert rings.add_missing_cpus() == []
        assert rings.cpus == every
        for cpu in every:
            emitter.run(13, cpu=cpu)
        assert sum(len(run.offsets) for run in rings.read()) == 7 + 13 * len(every)


@pytest.mark.live
def test_ring_whose_cpu_was_away_is_replaced(emitter: Emitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that no longer runs is replaced, what it still holds is read, and only then is it closed."""
    with opened(emitter, 4) as rings:
        cpu = rings.cpus[0]
        emitter.run(5, cpu=cpu)
        before = len(rings.rings)
        old = next(ring for ring in rings.rings if ring.cpu == cpu and ring.name == "small")
        monkeypatch.setattr(old, "advances", lambda: False)
        (new,) = rings.add_missing_cpus()
        assert (new.cpu, new.name) == (cpu, "small")
        # It will never wake anybody again; the kernel would report its end after it is closed.
        with pytest.raises(FileNotFoundError):
            rings._epoll.modify(old.fd, select.EPOLLIN)
        emitter.run(3, cpu=cpu)
        assert sorted(len(run.offsets) for run in rings.read()) == [3, 5]
        assert len(rings.rings) == before
        assert old not in rings.rings
        emitter.run(2, cpu=cpu)
        assert [numbers(run) for run in rings.read()] == [[0, 1]]


@pytest.mark.live
def test_close_gives_everything_back(emitter: Emitter) -> None:
    """Closing twice is fine, leaves no descriptor open, and the program then finds no ring."""
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    rings = opened(emitter, 2)
    cpu = rings.cpus[0]
    rings.close()
    rings.close()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before
    emitter.run(3, cpu=cpu)
    assert emitter.counted(cpu) == (0, 3)


@pytest.mark.live
def test_no_descriptor_survives_an_exec(emitter: Emitter) -> None:
    """Every descriptor of the rings is closed on exec."""
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    with opened(emitter, 1) as rings:
        added = {
            int(path.name) for path in Path("/proc/self/fd").iterdir() if path.name not in before and path.exists()
        }
        assert set(rings.fds) <= added
        assert not any(os.get_inheritable(fd) for fd in added)


@pytest.mark.live
def test_wrong_map_is_one_clear_error(emitter: Emitter) -> None:
    """A map that is no perf event array, or no descriptor at all, is refused with one line; nothing stays open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for fd in (emitter.loaded.map("results").fd, 1 << 20):
        with pytest.raises(RingError) as refused:
            RingSet.open({"wrong": fd}, bytes_total={"wrong": PAGE}, watermark=PAGE)
        assert "\n" not in str(refused.value)
        assert "'wrong'" in str(refused.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.live
def test_memory_limit_is_one_clear_error(compiled: Path) -> None:
    """Without CAP_IPC_LOCK a ring beyond the limits of locked memory is one line that names the fix."""
    program = f"""
import ctypes, resource, sys
from pathlib import Path
from tracer.probes import libbpf, rings
loaded, _ = libbpf.load(Path({str(compiled)!r}), knobs={{}}, optional=())
libc = ctypes.CDLL(None, use_errno=True)
CAP_IPC_LOCK, CAP_PERFMON, CAP_BPF = 14, 38, 39
keep = [(1 << CAP_PERFMON - 32) | (1 << CAP_BPF - 32)] * 2
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(0, 0, 0, keep[0], keep[1], 0)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
assert libc.capset(header, data) == 0
try:
    rings.RingSet.open({{"small": loaded.map("small").fd}}, bytes_total={{"small": 64 << 20}}, watermark=4096)
except rings.RingError as refused:
    print(refused)
    sys.exit(7)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert len(done.stdout.splitlines()) == 1
    assert "locked memory" in done.stdout
    assert "smaller buffer" in done.stdout
    assert "CAP_IPC_LOCK" in done.stdout
