"""`python -m scripts.kernel_matrix`: boot the kernels of vagrant/matrix.toml and run the trap corpus in each."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.kernel_matrix.cache import VARIABLE, Cache, default_place
from scripts.kernel_matrix.config import BACKENDS, load
from scripts.kernel_matrix.docs import DATA, PAGE, write
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.guests import Limits
from scripts.kernel_matrix.matrix import Plan, Wanted, run_matrix
from scripts.kernel_matrix.results import from_json
from scripts.kernel_matrix.table import cost, table

ROOT = Path(__file__).resolve().parent.parent.parent
EPILOGUE = f"""\
examples:
  make matrix                                        every kernel, every backend, this machine too
  make matrix ARGS="--kernel 6.1 --trap 4"           one trap on one kernel
  make matrix ARGS="--kernel 6.1 --run 'uname -a'"   a command in place of the corpus
  make matrix ARGS=--write-docs                      and write the results into docs/

What is fetched and built is kept in ${VARIABLE}, by default {default_place()}.
Exit codes: 0 all as expected, 1 not, 2 usage, 130 interrupted.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the program on wrong ones."""
    parser = argparse.ArgumentParser(
        prog="kernel-matrix", description=__doc__, epilog=EPILOGUE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME[/BACKEND]",
        help="only this one, or `host`; may be repeated",
    )
    parser.add_argument("--backend", action="append", default=[], choices=BACKENDS, help="only this one")
    parser.add_argument(
        "--tested", action="store_true", help="what `make test` runs: not this machine, less of what takes minutes"
    )
    parser.add_argument("--trap", action="append", default=[], type=int, metavar="N", help="only this one")
    parser.add_argument("--run", default="", metavar="COMMAND", help="a shell command in place of the corpus")
    parser.add_argument("--no-host", action="store_true", help="leave this machine out")
    parser.add_argument("--no-attribution", action="store_true", help="leave the check of attribution out")
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree that is tested (default: this one)")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="guests at a time (default: %(default)s)")
    parser.add_argument("--ready", type=float, default=180, metavar="S", help="limit of a boot (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=1800, metavar="S", help="limit of a guest (default: %(default)s)"
    )
    parser.add_argument(
        "--silent", type=float, default=120, metavar="S", help="without a sign of life (default: %(default)s)"
    )
    parser.add_argument(
        "--accel",
        default=os.environ.get("TRACER_MATRIX_ACCEL", "tcg"),
        choices=("tcg", "kvm"),
        help="kvm only where it boots a guest (default: %(default)s)",
    )
    parser.add_argument("--refresh", action="store_true", help="ask the mirror even if that was done today")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--write-docs", action="store_true", help=f"write {DATA} and {PAGE}")
    parser.add_argument("--from", type=Path, dest="known", metavar="FILE", help="show these results, run nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, print the table; returns 0 when everything is as expected."""
    options = parse(arguments)
    # A kill takes the guests down as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        matrix = load(options.source / "vagrant/matrix.toml")
        if options.known:
            results = from_json(json.loads(options.known.read_text()))
        else:
            plan = Plan(
                source=options.source.resolve(),
                at_once=options.at_once,
                limits=Limits(options.ready, options.silent, options.limit),
                accel=options.accel,
                refresh=options.refresh,
                host=not options.no_host,
                attribution=not options.no_attribution,
                few=options.tested,
                run=options.run,
                traps=tuple(options.trap),
            )
            wanted = Wanted(tuple(options.kernel), tuple(options.backend), options.tested)
            results = run_matrix(Cache(default_place()), matrix, wanted, plan)
    except MatrixError as error:
        print(f"kernel-matrix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kernel-matrix: interrupted", file=sys.stderr)
        return 130
    if options.run:
        return 0 if results.passed else 1
    for line in (*table(results), *cost(results)):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    if options.write_docs:
        write(ROOT, results, matrix)
    return 0 if results.passed else 1


if __name__ == "__main__":
    sys.exit(main())
