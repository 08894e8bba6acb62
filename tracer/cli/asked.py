"""What was asked of a session: apart from it, so that it is known before all that a session takes is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tracer.cli.mode import Mode
from tracer.formats.privacy import Privacy
from tracer.pipeline.view import Filters

__all__ = ["Options"]

FLOOD_BUDGET: Final = 50_000
"""Records a second of one user in one control group, on one CPU: two CPUs' worth are two thirds of what is read."""


@dataclass
class Options:
    """What was asked for, checked."""

    filters: Filters = field(default_factory=Filters)
    backend: str = "auto"
    hooks: str = "auto"
    format: str | None = None
    output: Path | None = None
    duration: float | None = None
    count: int | None = None
    update: float = 30.0  # seconds
    buffer: int = 8 << 20
    record: Path | None = None
    fail_on_loss: bool = False
    snapshot: bool = True
    payload: bool = True
    sandbox: Mode = Mode.BEST
    user: str | None = None
    account_wire: bool = False
    privacy: Privacy | None = None
    geoip: list[Path] = field(default_factory=list)
    stats: Path | None = None
    flood: int = FLOOD_BUDGET
    aggregate: float = 0.0  # seconds
