"""Read a file of settings (TOML): every option of a command is a key of it, and every mistake is told with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.cli.errors import CommandError, Exit

__all__ = ["FLAG", "LIST", "TEXT", "Config", "Key", "Values", "keys_of"]

FLAG, TEXT, LIST = "true or false", "a text or a number", "a list of texts"
"""What an option takes, in words."""


class Key(NamedTuple):
    """A setting: the command's parameter of it, what that takes, and what it is by itself."""

    parameter: str
    takes: str
    default: Any


Values = dict[str, bool | str | list[str]]
_MOST: Final = 60 << 10  # bytes
_AT: Final = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")
_OPTION: Final = re.compile(r"--([a-z-]+)\b")


class Config:
    """What is in a file: ``values`` has for each key what would be typed on the command line."""

    def __init__(self, path: Path, data: bytes, keys: Mapping[str, Key]) -> None:
        """Nothing but ``keys`` may be in it. Raises CommandError, which names the line."""
        self.keys = keys
        self.path = path
        try:
            self._text = data.decode()
            found = tomllib.loads(self._text)
        except UnicodeDecodeError as wrong:
            line = data[: wrong.start].count(b"\n") + 1
            raise self._wrong("it is not UTF-8", line) from wrong
        except tomllib.TOMLDecodeError as wrong:
            at = _AT.search(str(wrong))
            line = int(at[1]) if at is not None and at[1] else max(1, len(self._text.splitlines()))
            why = _AT.sub("", str(wrong)).strip()
            raise self._wrong(f"no TOML: {why[:1].lower()}{why[1:]}", line) from wrong
        self.values: Values = {}
        for key, value in found.items():
            self.values[key] = self._value(key, value, keys)

    @classmethod
    def read(cls, path: Path, keys: Mapping[str, Key]) -> Config:
        """The settings in a file. Raises CommandError."""
        try:
            with path.open("rb") as file:
                data = file.read(_MOST + 1)
        except OSError as failed:
            raise CommandError(
                f"can't read {path}: {failed.strerror}; name another with --config", Exit.USAGE
            ) from failed
        if len(data) > _MOST:
            raise CommandError(f"{path} has more than {_MOST >> 10} KiB: these are no settings", Exit.USAGE)
        return cls(path, data, keys)

    def located(self, error: CommandError) -> CommandError:
        """An error about an option, with the line where this file sets it, if it does."""
        option = _OPTION.search(str(error))
        key = option[1].replace("-", "_") if option is not None else ""
        if key not in self.values:
            return error
        return CommandError(f"{self.path}, line {self._line(key)}: {error}", error.code)

    def _wrong(self, why: str, line: int) -> CommandError:
        return CommandError(f"{self.path}, line {line}: {why}", Exit.USAGE)

    def _value(self, key: str, value: Any, keys: Mapping[str, Key]) -> bool | str | list[str]:
        if key not in keys:
            right = key.replace("-", "_")
            known = f"did you mean {right}?" if right in keys else f"give one of {', '.join(sorted(keys))}"
            raise self._wrong(f"there is no setting {key!r}; {known}", self._line(key))
        kind = keys[key].takes
        if kind == FLAG and isinstance(value, bool):
            return value
        if kind == LIST:
            values = value if isinstance(value, list) else [value]
            if all(_is_text(each) for each in values):
                return [str(each) for each in values]
        elif kind == TEXT and _is_text(value):
            return str(value)
        raise self._wrong(f"{key} takes {kind}", self._line(key))

    def _line(self, key: str) -> int:
        """The line where a key is set: the first with which the text up to there has it."""
        lines = self._text.splitlines(keepends=True)
        begin = 0
        for number in range(1, len(lines) + 1):
            try:
                found = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue  # in the middle of a value
            if key in found:
                blank = [not line.strip() or line.lstrip().startswith("#") for line in lines[begin:number]]
                return begin + 1 + (blank.index(False) if False in blank else 0)
            begin = number
        return len(lines)


def keys_of(parameters: Iterable[Any]) -> dict[str, Key]:
    """The keys that the parameters of a command have in a file: the names of the options, with _ for -."""
    keys = {}
    for each in parameters:
        longest = max(each.opts, key=len)
        if not longest.startswith("--") or longest in {"--config", "--help"}:
            continue
        takes = FLAG if each.is_flag else LIST if each.multiple else TEXT
        keys[longest.removeprefix("--").replace("-", "_")] = Key(each.name, takes, each.default)
    return keys


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
