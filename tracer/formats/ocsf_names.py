"""Names in OCSF: what a flow goes to and speaks, and the answers of DNS as DNS Activity."""

from __future__ import annotations

from typing import Any, Final

from tracer.formats.ecs_names import Told, own_of
from tracer.formats.ecs_values import MARKS, keep_raw, members, quality, quoted, text
from tracer.formats.lines import Parts
from tracer.formats.ocsf_process import MS, OcsfProcesses, activity
from tracer.formats.places import Places
from tracer.model import Answered, Names

__all__ = ["OcsfAnswers", "told_of"]


def told_of(names: Names) -> Told:
    """What there is to tell of a flow's names; made once for all flows that have the same. Nothing of `network`."""
    found: Told | None = names.rendered
    if found is None:
        found = names.rendered = _told(names)
    return found


def _told(names: Names) -> Told:
    own, raw = own_of(names)
    end = f',"hostname":{quoted(names.domain)}' if names.domain else ""
    document = f',"app_protocol_name":"{names.protocol}"' if names.protocol else ""
    if names.hello and names.server_name:
        # Only the client has spoken: which version the two agree upon is not known.
        document += f',"tls":{{"version":"unknown","sni":{quoted(names.server_name)}}}'
    elif names.method:
        host = {"host": text(names.host)} if names.host else {}
        own["http"] = {**host, "method": text(names.method), "version": names.http, **own.get("http", {})}
    return Told(end, "", document, members(own), raw)


class OcsfAnswers:
    """Renders the answers of DNS. Source is who asked."""

    def __init__(self, processes: OcsfProcesses, places: Places | None = None) -> None:
        """Who asked is described by ``processes``, where an address is by ``places``."""
        self._places = places
        self._acting = processes.acting
        self._netns = processes.netns
        self._told = processes.told
        self._told_late = processes.told_late
        self._begin, self._end = processes.begin, processes.end

    def parts(self, event: Answered, offset: int, when: str, number: int) -> Parts:
        """The line of an answer."""
        owner = thread = attribution = cgroup = actor = ""
        raw: dict[str, str] = {}
        if event.process is not None:
            known = self._acting(event.process)
            owner, cgroup, raw = known.process, known.cgroup, known.raw
            actor, thread, attribution = ',"actor":{', "}}", ',"attribution":"kernel"'
        own: dict[str, Any] = {"malformed": True} if event.malformed else {}
        document: dict[str, Any] = {"rcode": event.code, "rcode_id": _CODES.get(event.code, _OTHER)}
        if event.question is not None:
            name, kind, class_ = event.question
            document["query"] = {
                "hostname": text(name),
                "type": kind,
                "class": class_,
                "opcode_id": 0,
                "packet_uid": event.id,
            }
            if not name.isascii():
                raw = raw.copy()
                keep_raw(raw, "dns.question.name", name)
        else:
            own["id"] = str(event.id)
        if event.answers:
            document["answers"] = [
                {"rdata": text(each.data), "type": each.type, "class": each.class_, "ttl": each.ttl}
                for each in event.answers
            ]
            own["names"] = [text(each.name) for each in event.answers]
        if event.addresses:
            own["resolved_ip"] = event.addresses
        if event.header_flags:
            own["header_flags"] = event.header_flags
        ours: dict[str, Any] = {"dns": own} if own else {}
        if event.cut:
            ours["truncated"] = ["answers"]
        if raw:
            ours["raw"] = raw
        community = f',"community_uid":"{event.community_id}"' if event.community_id else ""
        socket = f',"socket":{{"id":"{event.flow:x}"}}' if event.flow else ""
        uid = f',"uid":"{event.flow:x}"' if event.flow else ""
        here, there = (
            f'"ip":"{event.local}","port":{event.local_port}',
            f'"ip":"{event.remote}","port":{event.remote_port}',
        )
        if self._places is not None:
            here, there = here + self._places.ocsf(event.local), there + self._places.ocsf(event.remote)
        inexact = quality(event.marks) if event.marks & MARKS else ""
        at = (event.time + offset) // MS
        return (
            f"{self._begin}{number}{_FAILED if event.malformed or event.code != 'NOERROR' else _ANSWERED}"
            f',"time":{at},"time_dt":"{when}","response_time":{at},"response_time_dt":"{when}"{actor}',
            owner,
            f'{thread},"src_endpoint":{{{here}}},"dst_endpoint":{{{there}}}'
            f',"connection_info":{{{_UNKNOWN if event.protocol == "mdns" else _OUT},"protocol_num":{event.number}'
            f',"protocol_name":"{event.transport}","protocol_ver_id":{6 if event.ipv6 else 4}{community}{uid}}}'
            f',"app_protocol_name":"{event.protocol}"{members(document)}{self._told_late if event.late else self._told}'
            f",{self._netns(event.netns)}{cgroup}{socket}{attribution}{members(ours)}{inexact}",
            self._end,
        )


_ANSWERED: Final = activity("DNS Activity", 2, "Response", "dns-answered", "success")
_FAILED: Final = activity("DNS Activity", 2, "Response", "dns-answered", "failure")
_OUT: Final = '"direction_id":2,"direction":"Outbound"'
_UNKNOWN: Final = '"direction_id":0,"direction":"Unknown"'
_OTHER: Final = 99
# rcode_id of the schema, by the names that dnspython gives the codes.
_CODES: Final = {
    "NOERROR": 0,
    "FORMERR": 1,
    "SERVFAIL": 2,
    "NXDOMAIN": 3,
    "NOTIMP": 4,
    "REFUSED": 5,
    "YXDOMAIN": 6,
    "YXRRSET": 7,
    "NXRRSET": 8,
    "NOTAUTH": 9,
    "NOTZONE": 10,
    "DSOTYPENI": 11,
    "BADVERS": 16,
    "BADKEY": 17,
    "BADTIME": 18,
    "BADMODE": 19,
    "BADNAME": 20,
    "BADALG": 21,
    "BADTRUNC": 22,
    "BADCOOKIE": 23,
}
