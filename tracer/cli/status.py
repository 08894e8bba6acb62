"""`tracer status`: what a running service says of itself, from its stats file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.facts import boot_id
from tracer.confine.apply import confine
from tracer.confine.reader import parser_plan
from tracer.fallback.stats_file import CONTENT_MOST
from tracer.formats.text import human_bytes, human_duration, visible

__all__ = ["DEFAULT", "status"]

DEFAULT: Final = Path("/run/tracer/tracer.prom")
"""Where the service of the package keeps it."""
_STALE_AFTER: Final = 3.0  # intervals without an update
Found = dict[str, Any]


def status(path: Path, *, json_lines: bool, write: Callable[[str], object], sandbox: bool = True) -> Exit:
    """Tell of the service by ``write``, a function of text; FAILURE when it does not run. Raises CommandError.

    With a ``sandbox`` this process is confined for ever, as far as this machine can, before it looks at what is in the
    file.
    """
    found = read(path, (lambda: confine(parser_plan())) if sandbox else None)
    if json_lines:
        write(json.dumps(found) + "\n")
    else:
        write("".join(f"{name:<11}{text}\n" for name, text in rows(found)))
    return Exit.OK if found["state"] == "running" else Exit.FAILURE


def read(path: Path, before: Callable[[], object] | None = None) -> Found:
    """What a stats file says, looked at after a call of ``before``.

    Raises CommandError when there is none, or it is something else.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as missing:
        fix = "pip install 'tracer[service]'"
        raise CommandError(f"tracer status takes the package prometheus-client: {fix}", Exit.FAILURE) from missing
    try:
        with path.open("rb") as file:
            text = file.read(CONTENT_MOST).decode(errors="replace")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        fix = "is the service running (systemctl status tracer), and started with --stats FILE?"
        raise CommandError(f"can't read {path}: {why}; {fix}", Exit.FAILURE) from error
    boot = boot_id()
    if before is not None:
        before()
    metrics: dict[str, list[tuple[dict[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                metrics.setdefault(sample.name, []).append((sample.labels, sample.value))
        return _found(metrics, boot)
    except (ValueError, KeyError, IndexError) as error:
        if not text:
            raise CommandError(f"{path} is empty: the service is about to start", Exit.FAILURE) from error
        raise CommandError(f"{path} is no stats file of tracer; name what --stats names", Exit.FAILURE) from error


def _found(metrics: Mapping[str, list[tuple[dict[str, str], float]]], boot: str) -> Found:
    def one(name: str) -> float:
        return metrics[f"tracer_{name}"][0][1]

    def by(name: str, label: str) -> dict[str, int]:
        return {labels[label]: int(value) for labels, value in metrics.get(f"tracer_{name}", ())}

    info = metrics["tracer_info"][0][0]
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - one("updated_boottime_seconds")
    interval = one("update_interval_seconds")
    fates: dict[str, int] = dict.fromkeys(("delivered", "aggregated", "filtered", "lost"), 0)
    for labels, value in metrics.get("tracer_records_total", ()):
        fates[labels["fate"]] += int(value)
    if not one("running"):
        state = "ended"
    elif info["boot_id"] != boot or not 0 <= age <= interval * _STALE_AFTER:
        state = "stale"
    else:
        state = "running"
    return {
        "state": state,
        "version": info["version"],
        "backend": info["backend"],
        "since": one("start_time_seconds"),
        "age_s": round(age, 3),
        "interval_s": interval,
        "events": int(one("events_total")),
        "records": fates | {"in_flight": sum(by("in_flight_records", "kind").values())},
        "lost_by_stage": by("lost_records_total", "stage"),
        "missed": by("missed_total", "why"),
        "complete": bool(one("complete")),
        "hooks_refused": int(one("hooks_refused")),
        "lag_s": round(one("lag_seconds"), 6),
        "memory_bytes": int(one("resident_memory_bytes")),
        "cpu_share": round(one("cpu_share"), 6),
        "cpu_s": round(one("cpu_seconds_total"), 3),
        "confined": {labels["layer"]: bool(value) for labels, value in metrics.get("tracer_confined", ())},
    }


def rows(found: Found) -> list[tuple[str, str]]:
    """What is told to people, as names and texts."""
    records, lost = found["records"], {name: count for name, count in found["lost_by_stage"].items() if count}
    missed = {name: count for name, count in found["missed"].items() if count}
    on = [name for name, is_on in found["confined"].items() if is_on]
    off = [name for name, is_on in found["confined"].items() if not is_on]
    told = f"for {human_duration(int((time.time() - found['since']) * 1e9))}"
    if found["state"] == "stale":
        told = (
            f"no more, as it seems: updated {human_duration(int(max(found['age_s'], 0) * 1e9))} ago, or before a reboot"
        )
    elif found["state"] == "ended":
        told = "no more: it has ended in order"
    refused = f"; {found['hooks_refused']} hook(s) refused" if found["hooks_refused"] else ""
    losses = f"{records['lost']:,}" + (f" ({_listed(lost)})" if lost else "")
    if missed:
        losses += f"; missed: {_listed(missed)}"
    return [
        ("running", told),
        ("version", visible(found["version"])),
        ("backend", visible(found["backend"]) + refused),
        ("events", f"{found['events']:,}; records: {_listed({k: v for k, v in records.items() if k != 'lost'})}"),
        ("lost", losses + ("" if found["complete"] else "; the stream is not complete")),
        ("lag", f"{found['lag_s'] * 1000:,.1f} ms at most lately"),
        ("memory", human_bytes(found["memory_bytes"])),
        ("CPU", f"{found['cpu_share'] * 100:.1f} % of one lately, {found['cpu_s']:,.1f} s in all"),
        ("confined", (", ".join(on) or "no") + (f"; missing: {', '.join(off)}" if off else "")),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
