"""Prints what the check of bytes found, as a table or for machines."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scripts.bytes.compare import Verdict
from scripts.bytes.wire import WAYS

_SHOWN = 5  # problems of each row that are printed
_TITLES = ("row", "transport", "via", "sent", "told", "received", "told", "messages", "nft out", "nft back", "verdict")
_WIRE_TITLES = ("row", "device", "way", "owned", "ownerless", "sum", "counted", "off by")
_LEFT = 3  # columns of words


class Report(NamedTuple):
    """All rows, what the ledger says of bytes, what is wrong with the session as a whole, and how long it took, s."""

    verdicts: Sequence[Verdict]
    bytes: dict[str, Any]
    problems: Sequence[str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong, and there was anything to look at."""
        ran = [verdict for verdict in self.verdicts if not verdict.missing and not verdict.unseen]
        return bool(ran) and not self.problems and not any(verdict.problems for verdict in self.verdicts)


def word(verdict: Verdict) -> str:
    """What is to be said of a row in one word, or why it was not run."""
    if verdict.missing:
        return f"not here: {verdict.missing}"
    if verdict.problems:
        return "WRONG"
    if verdict.unseen:
        return f"can't here: {verdict.unseen}"
    return "exact" if verdict.exact else "within 0.1 %"


def as_text(report: Report) -> str:
    """The table, what is wrong with its rows, and the account of all bytes."""
    lines = [_TITLES, *map(_cells, report.verdicts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES) - 1)]
    text = [_line(line, widths) for line in lines]
    text += _devices(report.verdicts)
    for verdict in report.verdicts:
        text += [f"{verdict.name}: {problem}" for problem in verdict.problems[:_SHOWN]]
        if len(verdict.problems) > _SHOWN:
            text.append(f"{verdict.name}: and {len(verdict.problems) - _SHOWN} more")
    told = ", ".join(f"{count} {term}" for term, count in report.bytes.items() if not isinstance(count, bool))
    counts = Counter(word(verdict).partition(":")[0] for verdict in report.verdicts)
    summary = ", ".join(f"{count} {what}" for what, count in counts.items())
    text.append(f"{len(report.verdicts)} rows in {report.seconds:.1f} s: {summary}; bytes: {told or 'not counted'}")
    return "\n".join([*text, *report.problems])


def _cells(verdict: Verdict) -> tuple[str, ...]:
    if not verdict.transport:
        return (verdict.name, *[""] * (len(_TITLES) - 2), word(verdict))
    truth, told = verdict.truth, verdict.told
    wire = ("-", "-") if verdict.wire is None else verdict.wire
    counts = (truth.sent, told.sent, truth.received, told.received, truth.sends + truth.receives, *wire)
    return (verdict.name, verdict.transport, verdict.via or "-", *map(str, counts), word(verdict))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(_aligned(cells, widths)).rstrip()


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, cell in enumerate(cells[:-1]):
        yield cell.ljust(widths[column]) if column < _LEFT else cell.rjust(widths[column])
    yield cells[-1]


def _devices(verdicts: Sequence[Verdict]) -> list[str]:
    """A table of what each device has carried in each row, if that was asked for."""
    lines: list[tuple[str, ...]] = [_WIRE_TITLES]
    for verdict in verdicts:
        for device, ways in sorted(verdict.carried.items(), key=lambda each: each[0].name):
            for name, way in zip(WAYS, ways, strict=True):
                numbers = map(str, (way.owned, way.ownerless, way.owned + way.ownerless, way.counted))
                lines.append((verdict.name, device.name, name, *numbers, f"{way.error:.2%}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_WIRE_TITLES) - 1)]
    return [_line(line, widths) for line in lines] if len(lines) > 1 else []


def as_json(report: Report) -> dict[str, Any]:
    """The same for machines."""
    return {
        "passed": report.passed,
        "rows": [
            {
                "row": verdict.name,
                "verdict": word(verdict),
                "transport": verdict.transport,
                "via": verdict.via,
                "truth": verdict.truth._asdict(),
                "told": verdict.told._asdict(),
                "nft": verdict.wire,
                "problems": list(verdict.problems[:_SHOWN]),
                "devices": [
                    {"netns": device.netns, "name": device.name}
                    | {name: way._asdict() for name, way in zip(WAYS, ways, strict=True)}
                    for device, ways in verdict.carried.items()
                ],
            }
            for verdict in report.verdicts
        ],
        "bytes": report.bytes,
        "problems": list(report.problems),
        "seconds": round(report.seconds, 1),
    }
