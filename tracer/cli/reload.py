"""Take changed settings of a running `tracer export`: what can change under confinement does, the rest is refused."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from tracer.cli import limits, options
from tracer.cli.config import Config, Values
from tracer.cli.errors import CommandError
from tracer.cli.keeping import Keeping
from tracer.cli.kept import Kept
from tracer.cli.stream import Stream
from tracer.cli.tell import tell
from tracer.formats.redact import Redactor, RuleError, read_rules
from tracer.pipeline.view import Filters
from tracer.sinks.place import Packing

__all__ = ["CHANGEABLE", "Reload", "follow"]

_FILES: Final = ("rotate_size", "rotate_age", "keep", "compress", "fsync")
_FILTERS: Final = ("event", "comm", "exe", "uid", "port", "cidr", "netns")
CHANGEABLE: Final = frozenset({*_FILES, *_FILTERS})
"""The settings that SIGHUP changes; filters that the kernel applies only to ask for less than at the start."""
_FIELDS: Final = {
    "event": "kinds",
    "comm": "comms",
    "exe": "exes",
    "uid": "uids",
    "port": "ports",
    "cidr": "cidrs",
    "netns": "netns",
}


class Reload:
    """The settings as they are; called with what is in the file now it changes them."""

    def __init__(
        self,
        config: Config,
        fixed: frozenset[str],
        filters: Filters,
    ) -> None:
        """``config`` and ``filters`` are as at the start; keys ``fixed`` were typed on the command line."""
        self._path = config.path
        self._values = config.values
        self._keys = config.keys
        self._fixed = fixed
        self._start = self._filters = filters

    def __call__(self, data: bytes, stream: Stream, keeping: Keeping, kept: Kept) -> None:
        """Take what is in the file. What is wrong is told, and nothing is changed then."""
        try:
            found = Config(self._path, data, self._keys)
        except CommandError as wrong:
            tell(f"{wrong}; nothing is changed")
            return
        every = self._values.keys() | found.values.keys()
        keys = [key for key in sorted(every) if self._values.get(key) != found.values.get(key)]
        changed, refused = [], []
        filters = self._filters
        for key in keys:
            try:
                self._check(key)
                if key in _FIELDS:
                    filters = self._filtered(key, found.values, filters)
                else:
                    self._keep(key, found.values, keeping, kept)
            except (CommandError, _RefusedError) as why:
                tell(f"{self._path}: {key} keeps its value: {why}")
                refused.append(key)
                continue
            changed.append(key)
            self._take(key, found.values)
        if filters is not self._filters:
            self._filters = filters
            stream.filter(filters)
        if changed or refused:
            stream.tell("tracer-config", {"config": {"changed": changed, "refused": refused}})
        if changed:
            tell(f"{self._path}: changed {', '.join(changed)}")

    def _check(self, key: str) -> None:
        if key in self._fixed:
            raise _RefusedError("the command line says otherwise")
        if key not in CHANGEABLE:
            raise _RefusedError("that takes a restart")

    def _take(self, key: str, values: Values) -> None:
        self._values = {each: value for each, value in self._values.items() if each != key}
        if key in values:
            self._values[key] = values[key]

    def _value(self, key: str, values: Values) -> Any:
        return values.get(key, self._keys[key].default)

    def _keep(self, key: str, values: Values, keeping: Keeping, kept: Kept) -> None:
        typed = {each: self._value(each, values if each == key else self._values) for each in _FILES}
        if key == "fsync":
            kept.fsync = limits.fsync(typed[key])
        else:
            wanted = limits.limits(typed)
            if wanted.compress is Packing.ZSTD and not keeping.has_zstd:
                raise _RefusedError("zstd is loaded at the start, and that takes a restart")
            keeping.limits = wanted

    def _filtered(self, key: str, values: Values, filters: Filters) -> Filters:
        """The filters with this one changed. Raises _RefusedError or CommandError."""
        field = _FIELDS[key]
        typed: dict[str, Any] = {key: self._value(key, values) or ()}
        wanted = getattr(options.filters(**typed), field)
        if not _is_less(key, wanted, getattr(self._start, field)):
            raise _RefusedError("the kernel leaves out more since the start, and that takes a restart")
        return replace(filters, **{field: wanted})


def follow(redactor: Redactor, path: Path, data: bytes, stream: Stream) -> None:
    """Take out secrets by the rules that are in a file now. What is wrong is told, and nothing is changed then."""
    try:
        rules = read_rules(data.decode("utf-8", "backslashreplace").splitlines())
    except RuleError as wrong:
        tell(f"{path}: {wrong}; nothing is changed")
        return
    if rules != redactor.rules:
        redactor.follow(rules)
        tell(f"{path}: the rules are taken")
        stream.tell("tracer-config", {"config": {"changed": ["redact"], "refused": []}})


class _RefusedError(Exception):
    """A setting can't be changed; why."""


def _is_less(key: str, wanted: Any, start: Any) -> bool:
    """Whether everything that is wanted comes from the kernel, which knows nothing of names."""
    if key in {"comm", "exe"}:
        return True
    if key == "event":
        return bool(wanted <= start)
    if not start:
        return True
    if key == "cidr":
        return bool(wanted) and all(any(_within(each, other) for other in start) for each in wanted)
    return bool(wanted) and bool(wanted <= start)


def _within(one: str, other: str) -> bool:
    inner, outer = ip_network(one), ip_network(other)
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version
