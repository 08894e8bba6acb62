"""Cut documents whose line would be too long for the tools that read it, and mark what was cut."""

from __future__ import annotations

from typing import Any, Final

import orjson

__all__ = ["LINE_MOST", "shortened"]

LINE_MOST: Final = 32_000  # bytes: Fluent Bit stops following a file at a line over 32 KiB
_LIST_MOST: Final = 12_000  # bytes of a list, such as the arguments, escaped
_LISTS: Final = {"tracer.name.asked": 2_000, "tracer.tls.offered_protocols": 2_000}  # of which a line may have several
_TEXT_MOST: Final = 1_500  # bytes of any other text, escaped
_LINE_TEXT_MOST: Final = 6_000  # bytes of the command line, escaped
_dumps = orjson.dumps


def _cut(text: str, most: int) -> str:
    while len(encoded := _dumps(text)) > most:
        text = text[: min(len(text) - 1, len(text) * most // len(encoded))]
    return text


def _cut_list(texts: list[Any], most: int) -> list[Any]:
    kept: list[Any] = []
    for text in texts:
        size = len(_dumps(text)) + 1
        if size > most:
            if most > 16 and isinstance(text, str):
                kept.append(_cut(text, most))
            break
        kept.append(text)
        most -= size
    return kept


def _walk(value: Any, path: str, cut: set[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: _walk(part, f"{path}.{name}" if path else name, cut)
            for name, part in value.items()
            if path != "tracer.raw"
        }
    if isinstance(value, list):
        shorter: Any = _cut_list(value, _LISTS.get(path, _LIST_MOST))
    elif isinstance(value, str):
        shorter = _cut(value, _LINE_TEXT_MOST if path.endswith("command_line") else _TEXT_MOST)
    else:
        return value
    if shorter != value:
        cut.add(path)
    return shorter


def shortened(line: bytes) -> bytes:
    """The line of an event with every long text cut, what was cut named in tracer.truncated, under LINE_MOST bytes."""
    document = orjson.loads(line)
    cut = set(document["tracer"].get("truncated", ()))
    if document["tracer"].get("raw"):
        cut.add("tracer.raw")
    document = _walk(document, "", cut)
    document["tracer"].pop("raw", None)
    document["tracer"]["truncated"] = sorted(cut)
    return _dumps(document, option=orjson.OPT_APPEND_NEWLINE)
