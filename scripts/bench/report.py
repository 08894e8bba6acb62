"""Prints the benchmark's rows: a table for a terminal, the section of the README, and JSON."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.bench.figures import Row, table
from scripts.bench.overhead import GROUP

__all__ = ["as_json", "in_groups", "machine", "markdown", "text"]


def _cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Hardware", "uarch"):
            return value.strip()
    return "unknown CPU"


def machine() -> dict[str, Any]:
    """The machine that was measured on."""
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text()),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _machine_line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cpu']} ({facts['architecture']}), {facts['cores']} cores, Linux {facts['kernel']}, "
        f"Python {facts['python']}; load {facts['load_before']:.1f} before it began"
    )


def in_groups(rows: Sequence[Row]) -> list[Row]:
    """The rows of a group together, groups and rows in the order in which they came first."""
    groups = list(dict.fromkeys(row.group for row in rows))
    return sorted(rows, key=lambda row: groups.index(row.group))


def text(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """For a terminal."""
    return f"{table(in_groups(rows))}\n\n{_machine_line(facts)}"


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The section of the README: a table for each group, without the long notes of the first."""
    lines = ["## What it costs", "", f"`make bench` on {_machine_line(facts)}. Medians, and the spread of all runs:"]
    group = ""
    for row in in_groups(rows):
        if row.group != group:
            group = row.group
            lines += ["", f"| {_cell(group)} | budget | median | spread | |", "|---|---:|---:|---:|---|"]
        name, budget, middle, around, verdict, note = map(_cell, row.cells)
        if row.spread is not None and not row.wrong and row.group == GROUP:
            note = ""
        told = "; ".join(filter(None, (verdict, note)))
        lines.append(f"| {name} | {budget} | {middle} | {around} | {told} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """All figures, for a program."""
    return {"machine": facts | {"command": sys.argv[1:]}, "rows": [row.as_json() for row in in_groups(rows)]}
