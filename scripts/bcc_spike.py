"""Run one exec probe under BCC (or, compiled, under libbpf) and read its records with the tracer's own ring reader.

Needs root; for BCC also python3-bpfcc and the headers of exactly the running kernel. Nothing else may execute much
meanwhile: a record that finds its CPU's only slot taken is not written, and the count says so.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from struct import Struct

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tracer.probes.libbpf import BpfError, load, possible_cpus  # noqa: E402  # the script runs without installation
from tracer.probes.libbpf_binding import library  # noqa: E402
from tracer.probes.records import HEADER  # noqa: E402
from tracer.probes.rings import RingSet  # noqa: E402

PROGRAM = "on_sched_process_exec"
TRACEPOINT = "sched_process_exec"
BODY = Struct("=QIIIHH16s256s256s")  # struct record behind its header
SLOT_BYTES = 16 + HEADER.size + BODY.size
PERF_EVENT_ARRAY, PERCPU_ARRAY = 4, 6  # enum bpf_map_type
PATIENCE = 10.0  # seconds for the last records to come


class SpikeError(Exception):
    """The spike can't run here, or its numbers are wrong; one line."""


def resident() -> str:
    """Resident memory of this process and its peak so far, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name[:2] == "Vm"}
    return f"{kib['VmRSS'] >> 10} MiB resident, peak {kib['VmHWM'] >> 10} MiB"


def with_bcc() -> tuple[int, Callable[[], None]]:
    """Make the maps, compile, load and attach by BCC; return the buffer's descriptor and what detaches."""
    try:
        from bcc import BPF
    except ImportError as missing:
        raise SpikeError(f"no BCC ({missing}); Debian and Ubuntu: apt-get install python3-bpfcc") from missing
    print(f"BCC imported: {resident()}")
    lib = library()
    buffer = lib.check(lib.bpf_map_create(PERF_EVENT_ARRAY, b"events", 4, 4, possible_cpus(), None), "map events")
    slots = lib.check(lib.bpf_map_create(PERCPU_ARRAY, b"slots", 4, SLOT_BYTES, 1, None), "map slots")
    flags = ["-DTRACER_BCC", f"-I{ROOT / 'bpf'}", f"-DSLOT_BYTES={SLOT_BYTES}"]
    flags += [f"-DFD_events={buffer}", f"-DFD_slots={slots}", "-Wno-macro-redefined"]
    began = time.monotonic()
    # BCC has no exception of its own. Kernel headers newer than its linux/bpf.h need what that file lacks, and a
    # newer BCC has it: one of the two compiles.
    why: Exception | None = None
    for attempt in (flags, [*flags, "-DBCC_LACKS_UAPI"]):
        try:
            module = BPF(text=source(), cflags=attempt)
            module.load_func(PROGRAM, BPF.RAW_TRACEPOINT)
            module.attach_raw_tracepoint(tp=TRACEPOINT, fn_name=PROGRAM)
            break
        except Exception as refused:  # noqa: BLE001  # this is the type that BCC raises
            why = refused
    else:
        raise SpikeError(f"{why}; are the headers of exactly this kernel installed?")
    print(f"compiled and loaded in {time.monotonic() - began:.1f} s: {resident()}")
    return buffer, module.cleanup


def source() -> str:
    """The probe's C."""
    return (ROOT / "scripts/bcc_spike.c").read_text(encoding="utf-8")


def with_libbpf(path: Path) -> tuple[int, Callable[[], None]]:
    """Load and attach the compiled probe; return the buffer's descriptor and what detaches."""
    loaded, _ = load(path, knobs={}, optional=())
    loaded.attach(PROGRAM)
    print(f"loaded: {resident()}")
    return loaded.map("events").fd, loaded.close


def collect(rings: RingSet, wanted: int) -> tuple[int, int, dict[int, list[int]]]:
    """Count our children's records until there are ``wanted``; also those lost, and each CPU's sequence numbers."""
    mine = lost = 0
    numbers: dict[int, list[int]] = defaultdict(list)
    until = time.monotonic() + PATIENCE
    while mine < wanted and time.monotonic() < until:
        rings.poll(100)
        for run in rings.read():
            lost += run.records_lost
            for at in run.offsets:
                header = HEADER.unpack_from(run.data, at)
                body = BODY.unpack_from(run.data, at + HEADER.size)
                numbers[run.cpu].append(header[1])
                arguments = body[8][: body[5]]
                mine += body[3] == os.getpid() and arguments == b"/bin/true\0an argument\0"
    return mine, lost, numbers


def run(count: int, path: Path | None) -> None:
    """Trace ``count`` executions and compare. Raises SpikeError when a record is missing."""
    buffer, detach = with_libbpf(path) if path else with_bcc()
    with RingSet.open({"events": buffer}, bytes_total={"events": 1 << 20}, watermark=16 << 10) as rings:
        for _ in range(count):
            subprocess.run(["/bin/true", "an argument"], check=True)
        mine, lost, numbers = collect(rings, count)
    detach()
    broken = [cpu for cpu, seen in numbers.items() if sorted(seen) != list(range(len(seen)))]
    print(f"{mine} records of {count} executions on {len(numbers)} CPUs, {lost} lost, gaps on {len(broken)} CPUs")
    if mine != count or lost or broken:
        raise SpikeError("records are missing")


def main() -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(description="run one exec probe under BCC and count its records")
    parser.add_argument("--count", type=int, default=101, help="executions to trace (default: %(default)s)")
    parser.add_argument("--object", type=Path, help="load this compiled scripts/bcc_spike.c by libbpf instead")
    options = parser.parse_args()
    try:
        run(options.count, options.object)
    except (BpfError, SpikeError) as error:
        print(f"bcc_spike: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
