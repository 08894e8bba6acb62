"""Names in ECS: what a flow goes to and speaks, and the answers of DNS."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tracer.formats.ecs_process import Processes
from tracer.formats.ecs_values import MARKS, dumps, keep_raw, members, quality, quoted, text
from tracer.formats.lines import Parts
from tracer.formats.places import Places
from tracer.model import Answered, Names

__all__ = ["Answers", "Told", "own_of", "told_of"]


class Told(NamedTuple):
    """JSON members that tell of names, each behind a comma.

    ``end`` is of the object of who was called, ``network`` of `network`, ``document`` of the document, ``tracer`` of
    `tracer`; ``raw`` is what goes under tracer.raw.
    """

    end: str
    network: str
    document: str
    tracer: str
    raw: dict[str, str]


def told_of(names: Names) -> Told:
    """What there is to tell of a flow's names; made once for all flows that have the same."""
    found: Told | None = names.rendered
    if found is None:
        found = names.rendered = _told(names)
    return found


def own_of(names: Names) -> tuple[dict[str, Any], dict[str, str]]:
    """What of a flow's names goes under ``tracer``, and the bytes of those that are not UTF-8."""
    raw: dict[str, str] = {}
    own: dict[str, Any] = {}
    if names.domain:
        keep_raw(raw, "destination.domain", names.domain)
        known: dict[str, Any] = {"from": names.source}
        if names.how:
            known["how"] = names.how
            known["asked"] = list(map(text, names.asked))
        if names.ambiguous:
            known["ambiguous"] = True
        own["name"] = known
    if names.hello:
        keep_raw(raw, "tls.client.server_name", names.server_name)
        offered: dict[str, Any] = {}
        if names.version in _VERSIONS:
            offered["offered_version"] = _VERSIONS[names.version]
        if names.offered:
            offered["offered_protocols"] = list(map(text, names.offered))
            if any(not each.isascii() for each in names.offered):
                keep_raw(raw, "tls.offered_protocols", b"\0".join(names.offered))
        offered |= {name: True for name in ("ech", "cut", "malformed") if getattr(names, name)}
        if offered:
            own["tls"] = offered
    elif names.method:
        keep_raw(raw, "url.domain", names.host)
        if names.malformed:
            own["http"] = {"malformed": True}
    return own, raw


def _told(names: Names) -> Told:
    own, raw = own_of(names)
    end = f',"domain":{quoted(names.domain)}' if names.domain else ""
    document = ""
    if names.hello and names.server_name:
        document = f',"tls":{{"client":{{"server_name":{quoted(names.server_name)}}}}}'
    elif names.method:
        if names.host:
            document = f',"url":{{"domain":{quoted(names.host)}}}'
        document += f',"http":{{"version":"{names.http}","request":{{"method":{quoted(names.method)}}}}}'
    network = f',"protocol":"{names.protocol}"' if names.protocol else ""
    return Told(end, network, document, members(own), raw)


_VERSIONS: Final = {0x0300: "SSL 3.0", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}


class Answers:
    """Renders the answers of DNS. Source is who asked."""

    def __init__(self, processes: Processes, places: Places | None = None) -> None:
        """Who asked is described by ``processes``, where an address is by ``places``."""
        self._places = places
        self._described = processes.described
        self._netns = processes.netns
        self._told = processes.told
        self._told_late = processes.told_late
        self._end = processes.end

    def parts(self, event: Answered, _offset: int, when: str, number: int) -> Parts:
        """The line of an answer."""
        owner = thread = attribution = cgroup = ""
        raw: dict[str, str] = {}
        if event.process is not None:
            described = self._described(event.process)
            owner, cgroup, raw = described.process, described.cgroup, described.raw
            thread, attribution = "}", ',"attribution":"kernel"'
        dns: dict[str, Any] = {"type": "answer", "id": str(event.id), "response_code": event.code}
        if event.header_flags:
            dns["header_flags"] = event.header_flags
        if event.question is not None:
            name, kind, class_ = event.question
            dns["question"] = {"name": text(name), "type": kind, "class": class_}
            if not name.isascii():
                raw = raw.copy()
                keep_raw(raw, "dns.question.name", name)
        if event.answers:
            dns["answers"] = [
                {
                    "name": text(each.name),
                    "type": each.type,
                    "class": each.class_,
                    "ttl": each.ttl,
                    **({"data": text(each.data)} if each.data else {}),
                }
                for each in event.answers
            ]
        if event.addresses:
            dns["resolved_ip"] = event.addresses
        here = f'{{"ip":"{event.local}","port":{event.local_port}}}'
        there = f'{{"ip":"{event.remote}","port":{event.remote_port}}}'
        source, destination = here, there
        if self._places is not None:
            source, destination = self._places.at(here, event.local), self._places.at(there, event.remote)
        community = f',"community_id":"{event.community_id}"' if event.community_id else ""
        addresses = dumps(list(dict.fromkeys((event.local, event.remote, *event.addresses))))
        own: dict[str, Any] = {"dns": {"malformed": True}} if event.malformed else {}
        if event.cut:
            own["truncated"] = ["dns.answers"]
        if raw:
            own["raw"] = raw
        outcome = "success" if event.code == "NOERROR" and not event.malformed else "failure"
        socket = f',"socket":{{"id":"{event.flow:x}"}}' if event.flow else ""
        inexact = quality(event.marks) if event.marks & MARKS else ""
        return (
            f'{{"@timestamp":"{when}","event":{{{_ANSWERED}"{outcome}","sequence":{number}}}',
            owner,
            f'{thread},"source":{source},"client":{here},"destination":{destination},"server":{there}'
            f',"network":{{"transport":"{event.transport}","type":"{"ipv6" if event.ipv6 else "ipv4"}"'
            f',"iana_number":"{event.number}","protocol":"{event.protocol}"'
            f',"direction":"{"unknown" if event.protocol == "mdns" else "egress"}"{community}}}'
            f',"related":{{"ip":{addresses}}},"dns":{dumps(dns)}{self._told_late if event.late else self._told}'
            f",{self._netns(event.netns)}{cgroup}{socket}{attribution}{members(own)}{inexact}",
            self._end,
        )


_ANSWERED: Final = '"kind":"event","category":["network"],"type":["protocol","info"],"action":"dns-answered","outcome":'
