"""Cut documents whose line would be too long for the tools that read it, and mark what was cut."""

from __future__ import annotations

from typing import Any, Final

import orjson

__all__ = ["LINE_MOST", "shortened"]

LINE_MOST: Final = 32_000  # bytes: Fluent Bit stops following a file at a line over 32 KiB
_LIST_MOST: Final = 12_000  # bytes of a list, such as the arguments, escaped
_LISTS: Final = {  # of those of which a line may have several
    "tracer.name.asked": 2_000,
    "tracer.tls.offered_protocols": 2_000,
    "tracer.process.args": 8_000,
    "tracer.dns.names": 6_000,
}
_TEXT_MOST: Final = 1_500  # bytes of any other text, escaped
_LINE_TEXT_MOST: Final = 6_000  # bytes of the command line, escaped
_LONG: Final = ("command_line", "cmd_line")
_RAW: Final = frozenset({"tracer.raw", "unmapped.tracer.raw"})
_WHOLE: Final = "tracer-bundle"  # of one process, bounded by itself, and for people and reports
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
            if path not in _RAW
        }
    if isinstance(value, list):
        shorter: Any = _cut_list(value, _LISTS.get(path.removeprefix("unmapped."), _LIST_MOST))
    elif isinstance(value, str):
        shorter = _cut(value, _LINE_TEXT_MOST if path.endswith(_LONG) else _TEXT_MOST)
    else:
        return value
    if shorter != value:
        cut.add(path)
    return shorter


def shortened(line: bytes) -> bytes:
    """The line of an event with every long text cut, what was cut named in tracer.truncated, under LINE_MOST bytes.

    In OCSF that is unmapped.tracer.truncated. Of `tracer pid` the bundle stays as it is.
    """
    document = orjson.loads(line)
    if document.get("event", {}).get("action") == _WHOLE:
        return line
    above, own = ("", document["tracer"]) if "tracer" in document else ("unmapped.", document["unmapped"]["tracer"])
    cut = set(own.pop("truncated", ()))
    if own.get("raw"):
        cut.add(f"{above}tracer.raw")
    document = _walk(document, "", cut)
    own = document["unmapped"]["tracer"] if above else document["tracer"]
    own.pop("raw", None)
    own["truncated"] = sorted(cut)
    if above:
        document["metadata"] |= {"is_truncated": True, "untruncated_size": len(line)}
    return _dumps(document, option=orjson.OPT_APPEND_NEWLINE)
