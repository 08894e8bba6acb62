"""HTML out of nested calls: every text is escaped unless these functions have made it themselves."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from tracer.formats.text import visible

__all__ = ["Markup", "join", "tag"]

_EMPTY: Final = frozenset({"meta", "link", "rect", "line", "circle", "path"})
_TEXT_MOST: Final = 8_192  # characters of one text: a line of a stream has at most 32,000 bytes


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _safe(part: object) -> str:
    if isinstance(part, Markup):
        return part
    shown = visible(str(part)) if not isinstance(part, str) or len(part) <= _TEXT_MOST else _cut(part)
    return escape(shown)


def _cut(long: str) -> str:
    return f"{visible(long[:_TEXT_MOST])}… ({len(long) - _TEXT_MOST:,} more characters)"


def tag(name: str, /, *parts: object, **attributes: object) -> Markup:
    """An element; attributes that are None are left out.

    Of attributes ``class_`` is ``class``, ``view_box`` is ``viewBox`` and any other ``_`` is ``-``. ``name`` and the
    names of attributes are ours, their values and the parts may be anything.
    """
    told = "".join(f' {_attribute(key)}="{_safe(value)}"' for key, value in attributes.items() if value is not None)
    if name in _EMPTY and not parts:
        return Markup(f"<{name}{told}/>" if name not in ("meta", "link") else f"<{name}{told}>")
    return Markup(f"<{name}{told}>{''.join(map(_safe, parts))}</{name}>")


def _attribute(key: str) -> str:
    return "viewBox" if key == "view_box" else key.rstrip("_").replace("_", "-")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other."""
    return Markup(escape(between).join(map(_safe, parts)))
