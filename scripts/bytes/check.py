"""Runs traffic that counts itself, and holds the tracer's flows against it: `python -m scripts.bytes.check`."""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from scripts.attribution.check import CheckError, tracing
from scripts.attribution.compare import ledger_problems
from scripts.bytes.compare import Verdict, byte_problems, judge
from scripts.bytes.errors import BytesError
from scripts.bytes.generator import Ran, Row, compile_generator, rows_of, run
from scripts.bytes.network import Counts, Network, joined
from scripts.bytes.report import Report, as_json, as_text
from scripts.bytes.stream import Stream, read_stream
from scripts.bytes.wire import OPTIONS, Carried, Tail, between, wire_problems

# What goes by other functions, or other hooks of the tracer, from kernel to kernel: enough where there is little time.
FEW = (
    *("tcp-mapped", "tcp-calls", "tcp-late", "sendfile", "splice", "zerocopy", "zerocopy-receive", "fast-open"),
    *("udp-ipv6", "udp-peers", "udp-peers-ipv6", "udplite", "mmsg", "udp-segments", "udp-silent"),
    *("ping", "ping-ipv6", "icmp", "raw-ipv6", "packet", "packet-cooked"),
    *("handed-on", "inherited", "udp-inherited", "beside-unix"),
    *("uring", "uring-udp-polled", "uring-multishot", "uring-splice", "mptcp", "sctp", "sctp-many", "vsock"),
)
ROOM = ("--buffer", "64M")  # whatever else this machine does meanwhile, it must not push anything out
_SETTLE_S = 0.2  # of the links: the kernel still says things to itself about their addresses


class Done(NamedTuple):
    """A row that has run, and what nftables, and with the account of the wire the tracer, counted meanwhile."""

    ran: Ran
    counts: Counts
    carried: Carried


def measure(
    directory: Path,
    options: Sequence[str] = (),
    names: Sequence[str] = (),
    generator: Path | None = None,
    *,
    account_wire: bool = False,
) -> Report:
    """Run the rows of these names, or all, under one tracer with these options, with every file in `directory`.

    With `account_wire` every device's account is checked, too.

    Raises CheckError and BytesError when a program fails or is missing.
    """
    if generator is None:
        generator = directory / "traffic"
        compile_generator(generator)
    rows = rows_of(generator)
    unknown = set(names) - {row.name for row in rows}
    if unknown:
        raise BytesError(f"no row {', '.join(sorted(unknown))}: there are {', '.join(row.name for row in rows)}")
    output = directory / "output.ndjson"
    begin = time.monotonic()
    with joined() as network:
        time.sleep(_SETTLE_S)
        with tracing(output, [*ROOM, *options, *(OPTIONS if account_wire else ())]):
            wanted = [row for row in rows if not names or row.name in names]
            done = list(
                _accounted(generator, wanted, network, output) if account_wire else _run(generator, wanted, network)
            )
        namespaces = network.near.inode, network.far.inode
    with output.open("rb") as lines:
        stream = read_stream(lines)
    if not stream.boot:
        raise BytesError(f"{output} is empty")
    verdicts = [_judge(each, namespaces, stream) for each in done]
    problems = (*ledger_problems(stream.ledger), *byte_problems(stream))
    return Report(verdicts, stream.ledger.get("bytes", {}), problems, time.monotonic() - begin)


def _run(generator: Path, rows: Sequence[Row], network: Network) -> Iterator[Done]:
    for row in rows:
        before = network.counts()
        ran = run(generator, row, network.near.file, network.far.file)
        yield Done(ran, network.counts().since(before), {})


def _accounted(generator: Path, rows: Sequence[Row], network: Network, output: Path) -> Iterator[Done]:
    with contextlib.closing(Tail(output)) as tail:
        before = tail.settled(quiet=True)
        for done in _run(generator, rows, network):
            after = tail.settled(quiet=bool(done.ran.missing))
            yield done._replace(carried=between(before, after))
            before = after


def _judge(done: Done, namespaces: tuple[int, int], stream: Stream) -> Verdict:
    verdict = judge(done.ran, done.counts, namespaces, stream)
    if done.carried and not verdict.missing:
        problems = (*verdict.problems, *wire_problems(done.carried, done.ran.flows))
        verdict = verdict._replace(carried=done.carried, problems=problems)
    return verdict


@contextlib.contextmanager
def _place(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="check-bytes-") as directory:
        yield Path(directory)


def _end(number: int, _frame: object) -> NoReturn:
    # What was begun is ended, and waited for, on the way out: at a KeyboardInterrupt subprocess would not wait.
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement; returns 0 only when every row that can be here is within 0.1 %, and nothing is missing."""
    parser = argparse.ArgumentParser(prog="check-bytes", description=__doc__)
    parser.add_argument("--row", action="append", default=[], help="only this row; may be repeated")
    parser.add_argument("--few", action="store_true", help="only the rows that tell kernels apart, a part of the time")
    parser.add_argument("--backend", help="the tracer's backend (default: what it chooses)")
    parser.add_argument("--hooks", help="the tracer's hooks (default: what it chooses)")
    parser.add_argument("--account-wire", action="store_true", help="check the account of every network device, too")
    parser.add_argument("--generator", type=Path, help="the compiled generator (default: compile it)")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the tracer's output there")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    asked = [
        part for name in ("backend", "hooks") if (value := getattr(options, name)) for part in (f"--{name}", value)
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        with _place(options.keep) as directory:
            names = [*options.row, *(FEW if options.few else ())]
            report = measure(directory, asked, names, options.generator, account_wire=options.account_wire)
    except (CheckError, BytesError, OSError) as error:
        print(f"check-bytes: {error}", file=sys.stderr)
        return 1
    print(json.dumps(as_json(report)) if options.json else as_text(report))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
