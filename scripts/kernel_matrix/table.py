"""Shows results: a table of traps by kernel and backend, 100 cells wide, and under it what is wrong."""

from collections.abc import Iterator, Sequence

from scripts.kernel_matrix.results import ABSENT, COMING, NONE, Column, Results

CELLS = 100
_GAP = 1
_TITLE_MOST = 46
ATTRIBUTION = "attribution of short connections"
BYTES = "bytes of every flow and device"
SANDBOX = "sandbox, each layer tried"
_SHOWN = {ABSENT: "", COMING: "…"}
_MESSAGE_LINES = 12  # of one problem, on the terminal
_SHORT = 400  # characters of one problem in the list at the end


def headings(column: Column) -> tuple[str, str]:
    """The two lines above a column."""
    return column.kernel, column.backend


def cell(column: Column, trap: int) -> str:
    """What stands in a column for a trap."""
    row = column.rows.get(trap)
    result = row.result if row else ABSENT
    return _SHOWN.get(result, result)


def traps_of(results: Results) -> tuple[list[int], list[int]]:
    """The traps that ran somewhere, and those that are still to come."""
    ran = {trap for column in results.columns for trap, row in column.rows.items() if row.result != COMING}
    coming = {trap for column in results.columns for trap, row in column.rows.items() if row.result == COMING}
    return sorted(ran), sorted(coming - ran)


def table(results: Results) -> Iterator[str]:
    """The lines of the table for a terminal, none longer than 100 cells, and under it what is wrong."""
    columns = results.columns
    widths = [max(4, *map(len, headings(column))) for column in columns]
    room = CELLS - 4 - sum(width + _GAP for width in widths)
    title = max(12, min(_TITLE_MOST, room))
    for heads in zip(*(headings(column) for column in columns), strict=True):
        yield _line("", heads, widths, title)
    ran, coming = traps_of(results)
    for trap in ran:
        label = f"{trap:>2}  {results.titles.get(trap, '')}"
        yield _line(label, [cell(column, trap) for column in columns], widths, title)
    if any(column.attribution for column in columns):
        yield _line(f"    {ATTRIBUTION}", [column.attribution for column in columns], widths, title)
    if any(column.bytes for column in columns):
        yield _line(f"    {BYTES}", [column.bytes for column in columns], widths, title)
    if any(column.sandbox for column in columns):
        yield _line(f"    {SANDBOX}", [column.sandbox for column in columns], widths, title)
    if coming:
        yield f"still to come: {', '.join(map(str, coming))}"
    yield ""
    yield from kernels(results)
    yield from missing(results)
    for column in columns:
        for problem in column.problems:
            yield ""
            lines = problem.splitlines()
            yield f"{column.name}: {lines[0]}"
            dropped = len(lines) - 1 - _MESSAGE_LINES
            if dropped > 0:
                yield f"    … {dropped} lines"
            yield from (f"    {line}" for line in lines[1:][-_MESSAGE_LINES:])
    yield ""
    yield from in_short(results)
    failed = sum(bool(column.problems) for column in columns)
    yield f"{len(columns)} columns, {failed} with problems" if failed else f"{len(columns)} columns, all as expected"


def in_short(results: Results) -> Iterator[str]:
    """A line for each problem: who reads no more than the end of a log learns what is wrong."""
    for column in results.columns:
        for problem in column.problems:
            first, *rest = problem.splitlines()
            # pytest marks the lines of the error itself.
            error = next((line[1:].strip() for line in rest if line.startswith("E ")), "")
            yield f"{column.name}: {first}{': ' if error else ''}{error}"[:_SHORT]


def _line(label: str, cells: Sequence[str], widths: Sequence[int], title: int) -> str:
    text = label if len(label) <= title + 4 else f"{label[: title + 3]}…"
    shown = "".join(f"{'':{_GAP}}{value:<{width}}" for value, width in zip(cells, widths, strict=True))
    return f"{text:<{title + 4}}{shown}".rstrip()


def kernels(results: Results) -> Iterator[str]:
    """A line for each column: the version that was booted, and the times in seconds."""
    for column in results.columns:
        text = f"{column.name}: {column.release or 'never booted'}"
        if column.version:
            text += f" ({column.version})"
        if column.ready_s:
            text += f", ready after {column.ready_s:.0f} s"
        if column.boots > 1:
            text += f" at boot {column.boots}"
        text += f", {column.seconds:.0f} s in all"
        if column.crashes:
            text += f", run again after {len(column.crashes)} lost: {'; '.join(column.crashes)}"
        if column.stale:
            text += ", from the cache"
        yield text
        if column.stale:
            yield f"    the mirror has no newer one: {column.stale}"


def missing(results: Results) -> Iterator[str]:
    """What kernels have no means for, a line for each reason."""
    found: dict[tuple[int, str], list[str]] = {}
    for column in results.columns:
        for trap, row in sorted(column.rows.items()):
            for reason in row.reasons:
                found.setdefault((trap, reason), []).append(column.name)
    if found:
        yield ""
    for (trap, reason), names in sorted(found.items()):
        yield f"{NONE}: trap {trap} on {', '.join(names)}: {reason}"


def cost(results: Results) -> Iterator[str]:
    """What the run cost, in words."""
    spent = results.cost
    if spent.get("fetched_bytes"):
        mib = spent["fetched_bytes"] / (1 << 20)
        rate = mib / spent["fetch_s"] if spent.get("fetch_s") else 0.0
        yield f"fetched {mib:.0f} MiB in {spent['fetch_s']:.0f} s ({rate:.1f} MiB/s)"
    if spent.get("build_s", 0) >= 1:
        yield f"built images in {spent['build_s']:.0f} s"
    if spent.get("fetched_bytes"):
        yield f"from now on that takes {spent.get('cached_s', 0):.0f} s: all of it is in the cache"
    yield f"ran {len(results.columns)} guests in {spent.get('run_s', 0):.0f} s; {spent.get('total_s', 0):.0f} s in all"
