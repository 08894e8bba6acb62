"""How much of the sandbox was asked for: apart from it, since that takes its time to import."""

from __future__ import annotations

import enum

__all__ = ["Mode"]


class Mode(enum.Enum):
    """What was asked for: as much as this kernel can, nothing, or all of it and else no start."""

    BEST = "best"
    OFF = "off"
    STRICT = "strict"
