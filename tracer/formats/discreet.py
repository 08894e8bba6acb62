"""Events with short addresses, or with users by pseudonyms, in any format."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Final, Protocol

from tracer.model import IDS, UNSET_ID, Answered, Cgroup, Event, Notice, Process, Resource, SocketEvent

__all__ = ["Discreet", "Lines"]

_KNOWN_MOST: Final = 1 << 14  # processes, addresses and users whose other form is kept
_OF_USER: Final = re.compile(rb"(user[-@]|user-runtime-dir@)(\d{1,10})(?=\.(?:slice|service)(?:/|\Z))")
_USERS_IN: Final = {
    "session": ("uid", "euid", "loginuid", "sudo_uid"),
    "confinement": ("uid",),
    "flood": ("uid",),
}
_ADDRESSES: Final = frozenset({"A", "AAAA"})


class Lines(Protocol):
    """A format: see tracer/cli/stream.py."""

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event."""
        ...

    def header(self) -> bytes:
        """What a file begins with."""
        ...


class Discreet:
    """Shows events in another format, with short addresses or with users by pseudonyms."""

    def __init__(self, form: Lines, *, truncate: bool, key: bytes) -> None:
        """Lines are those of ``form``; ``key`` is that of the pseudonyms, empty if users are told as they are."""
        self._form = form
        self._truncate = truncate
        self._key = key
        self._short: dict[str, str] = {}
        self._users: dict[tuple[bytes, int], int] = {}
        self._processes: dict[tuple[int, int], tuple[Process, Process]] = {}

    def header(self) -> bytes:
        """That of the format."""
        return self._form.header()

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, numbered from ``sequence`` on."""
        return self._form.lines([self._changed(event) for event in events], offset, sequence)

    def _changed(self, event: Event) -> Event:
        if isinstance(event, Notice):
            return event._replace(body=self._body(event.body)) if self._key else event
        if self._key and event.process is not None:
            event = event._replace(process=self._process(event.process))
        if isinstance(event, SocketEvent):
            if self._key and event.uid >= 0:
                event = event._replace(uid=self._user(event.uid))
            if self._key and event.merged is not None and event.merged.owner is not None:
                owner = self._process(event.merged.owner)
                event = event._replace(merged=event.merged._replace(owner=owner))
            if self._truncate:
                local, remote = self._address(event.local), self._address(event.remote)
                event = event._replace(local=local, remote=remote, community_id="")
        elif isinstance(event, Answered) and self._truncate:
            event = event._replace(
                local=self._address(event.local),
                remote=self._address(event.remote),
                community_id="",
                addresses=tuple(map(self._address, event.addresses)),
                answers=tuple(map(self._answer, event.answers)),
            )
        return event

    def _answer(self, answer: Resource) -> Resource:
        if answer.type not in _ADDRESSES or not answer.data:
            return answer
        return answer._replace(data=self._address(answer.data.decode("ascii", "replace")).encode())

    def _address(self, address: str) -> str:
        """The network that an address is in: /24 of version 4, /48 of version 6; what is none stays as it is."""
        found = self._short.get(address)
        if found is None:
            try:
                whole = ip_address(address)
            except ValueError:
                return address
            kept = 24 if whole.version == 4 else 48
            bits = whole.max_prefixlen - kept
            found = str(type(whole)(int(whole) >> bits << bits))
            if len(self._short) >= _KNOWN_MOST:
                self._short.clear()
            self._short[address] = found
        return found

    def _user(self, number: int, kind: bytes = b"user") -> int:
        """The pseudonym of a user or group, itself a number that the kernel could have given."""
        if not 0 <= number < UNSET_ID:
            return number
        found = self._users.get((kind, number))
        if found is None:
            digest = hmac.digest(self._key, b"%s:%d" % (kind, number), "sha256")
            found = int.from_bytes(digest[:4], "big") % UNSET_ID
            if len(self._users) >= _KNOWN_MOST:
                self._users.clear()
            self._users[kind, number] = found
        return found

    def _process(self, process: Process) -> Process:
        known = self._processes.get((process.tgid, process.start))
        if known is not None and known[0] is process:
            return known[1]
        made = Process(process.tgid, process.start, process.entity_id, process.comm)
        for name in ("clock", "image", "parent", "cgroup", "exited", "as_parent"):
            setattr(made, name, getattr(process, name))
        made.uid = self._user(process.uid)
        if process.told:
            ids = process.ids
            users = {name: self._user(getattr(ids, name)) for name in ("uid", "euid", "loginuid")}
            groups = {name: self._user(getattr(ids, name), b"group") for name in ("gid", "egid")}
            made.told = IDS.pack(*ids._replace(**users, **groups)) + process.told[IDS.size :]
        if process.within is not None:
            made.within = self._cgroup(process.within)
        if len(self._processes) >= _KNOWN_MOST:
            self._processes.clear()
        self._processes[process.tgid, process.start] = process, made
        return made

    def _cgroup(self, within: Cgroup) -> Cgroup:
        if not _OF_USER.search(within.path):
            return within
        path, above, unit, user_unit = (
            _OF_USER.sub(self._of_user, told) for told in (within.path, within.slice, within.unit, within.user_unit)
        )
        return replace(within, path=path, slice=above, unit=unit, user_unit=user_unit, rendered=None)

    def _of_user(self, found: re.Match[bytes]) -> bytes:
        return found[1] + b"%d" % self._user(int(found[2]))

    def _body(self, body: dict[str, Any]) -> dict[str, Any]:
        """What a notice tells of users: who started this, as whom it runs, whom it was asked about."""
        changed = dict(body)
        for part, names in _USERS_IN.items():
            told = body.get(part, {})
            users = {name: self._user(told[name]) for name in names if name in told}
            if users:
                changed[part] = {**told, **users}
        group = changed.get("flood", {}).get("cgroup", {})
        if "path" in group:
            path = _OF_USER.sub(self._of_user, group["path"].encode()).decode()
            changed["flood"] = {**changed["flood"], "cgroup": {**group, "path": path}}
        coverage = body.get("coverage", {})
        if "uid" in coverage.get("filters", {}):
            asked = sorted(map(self._user, coverage["filters"]["uid"]))
            changed["coverage"] = {**coverage, "filters": {**coverage["filters"], "uid": asked}}
        return changed
