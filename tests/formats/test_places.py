"""Places: what MaxMind databases say of an address, in the fields of ECS, from databases that the test makes."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tests.formats import events
from tests.formats.events import OFFSET, SESSION
from tests.formats.ocsf_lines import check as check_ocsf
from tracer.cli.errors import CommandError, Exit
from tracer.cli.geoip import open_places
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.formats.places import CACHED_MOST, Places
from tracer.model import Kind, Role

CITY = {
    "city": {"names": {"en": "Linköping", "sv": "Linköping"}},
    "continent": {"code": "EU", "names": {"en": "Europe"}},
    "country": {"iso_code": "SE", "names": {"en": "Sweden"}},
    "location": {"latitude": 58.4167, "longitude": 15.6167, "time_zone": "Europe/Stockholm"},
    "postal": {"code": "580 02"},
    "subdivisions": [{"iso_code": "E", "names": {"en": "Östergötland County"}}],
}
GEO = {
    "city_name": "Linköping",
    "continent_code": "EU",
    "continent_name": "Europe",
    "country_iso_code": "SE",
    "country_name": "Sweden",
    "location": {"lon": 15.6167, "lat": 58.4167},
    "postal_code": "580 02",
    "region_iso_code": "SE-E",
    "region_name": "Östergötland County",
    "timezone": "Europe/Stockholm",
}
ASN = {"autonomous_system_number": 29518, "autonomous_system_organization": "Bredband2 AB"}
AS = {"number": 29518, "organization": {"name": "Bredband2 AB"}}


def database(path: Path, kind: str, records: dict[str, Any], version: int = 6) -> Path:
    """A MaxMind database of these records, by network."""
    writer = MMDBWriter(ip_version=version, ipv4_compatible=version == 6, database_type=kind, languages=["en"])
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A City and an ASN database that know of 93.184.215.0/24, and one that knows a country of 2001:db8::/32."""
    found = open_places(
        [
            database(
                tmp_path / "city.mmdb",
                "GeoLite2-City",
                {"93.184.215.0/24": CITY, "2001:db8::/32": {"country": {"iso_code": "NO"}}},
            ),
            database(tmp_path / "asn.mmdb", "GeoLite2-ASN", {"93.184.215.0/24": ASN}, version=4),
        ]
    )
    assert found is not None
    return found


def rendered(places: Places | None, event: Any) -> Any:
    """The line of an event."""
    return json.loads(Ecs(SESSION, places=places).render(event, OFFSET, 0))


@pytest.mark.parametrize("kind", [Kind.CONNECT, Kind.ATTEMPT, Kind.CLOSE, Kind.SOCKET_FOUND, Kind.FLOW, Kind.UPDATE])
def test_destination(places: Places, kind: Kind) -> None:
    """Who was called has all that the databases say, under destination alone; of source they know nothing."""
    line = rendered(places, events.socket(kind))
    assert line["destination"]["geo"] == GEO
    assert line["destination"]["as"] == AS
    assert line["destination"]["ip"] == "93.184.215.14"
    assert not {"geo", "as"} & (line["source"].keys() | line["client"].keys() | line["server"].keys())


def test_source_of_an_accepted_connection(places: Places) -> None:
    """The place of who called in is the source's."""
    line = rendered(places, events.socket(Kind.ACCEPT, role=Role.ACCEPT))
    assert line["source"]["geo"] == GEO
    assert line["source"]["as"] == AS
    assert "geo" not in line["destination"]


def test_without_databases_nothing_changes(places: Places) -> None:
    """Without --geoip, and for addresses that no database has, a line is as it was."""
    for kind in (Kind.CONNECT, Kind.FLOW, Kind.LISTEN):
        event = events.socket(kind, remote="192.0.2.9")
        assert rendered(places, event) == rendered(None, event)


def test_dns_server(places: Places) -> None:
    """The server that answered a question about names has its place, too."""
    event = events.answered(remote="93.184.215.14", remote_port=53)
    assert rendered(places, event)["destination"]["geo"] == GEO


def test_ipv6_and_a_database_without_it(places: Places) -> None:
    """An IPv6 address is looked up where there are such; a database of IPv4 alone says nothing of it, and no error."""
    line = rendered(places, events.socket(Kind.CONNECT, remote="2001:db8::1", ipv6=True))
    assert line["destination"]["geo"] == {"country_iso_code": "NO"}
    assert "as" not in line["destination"]


def test_first_database_wins(tmp_path: Path) -> None:
    """Where two databases say one fact, the first one's is taken, and the second adds what it alone has."""
    first = database(tmp_path / "1", "City", {"93.184.215.0/24": {"country": {"iso_code": "DK"}}})
    second = database(tmp_path / "2", "City", {"93.184.215.0/24": CITY})
    found = open_places([first, second])
    assert found is not None
    assert rendered(found, events.socket(Kind.CONNECT))["destination"]["geo"] == {**GEO, "country_iso_code": "DK"}


@pytest.mark.parametrize(
    "record",
    [
        7,
        ["x"],
        {},
        {"country": "SE", "city": [1], "subdivisions": {"iso_code": "E"}, "location": "here"},
        {"country": {"iso_code": 7, "names": ["Sweden"]}, "location": {"latitude": "58", "longitude": 15.0}},
        {"location": {"latitude": 91.0, "longitude": 15.0}},
        {"autonomous_system_number": "AS1", "autonomous_system_organization": ""},
        {"autonomous_system_number": True},
    ],
)
def test_records_of_another_shape(record: Any) -> None:
    """What has not the shape of MaxMind's records is left out, whatever it is, and the line stays whole."""
    line = rendered(Places([lambda _: record]), events.socket(Kind.CONNECT))
    assert not {"geo", "as"} & line["destination"].keys()


def test_hostile_names() -> None:
    """A name of a database can't break the line, nor make it long."""
    record = {"city": {"names": {"en": '"},\n"x":{' * 1000}}}
    line = rendered(Places([lambda _: record]), events.socket(Kind.CONNECT))
    assert line["destination"]["geo"]["city_name"] == ('"},\n"x":{' * 1000)[:200]


def test_answers_are_kept_but_not_for_ever() -> None:
    """An address is looked up once; of more addresses than are kept the oldest is looked up again."""
    asked: Counter[str] = Counter()

    def look(address: str) -> object:
        asked[address] += 1
        return {"autonomous_system_number": 1}

    places = Places([look])
    for _ in range(3):
        places.members("10.0.0.1")
    assert asked == {"10.0.0.1": 1}
    for number in range(CACHED_MOST):
        places.members(str(number))
    assert places.members.cache_info().currsize == CACHED_MOST
    places.members("10.0.0.1")
    assert asked["10.0.0.1"] == 2


@pytest.mark.parametrize(("content", "word"), [(None, "no such file"), (b"not a database", "no MaxMind database")])
def test_no_database(tmp_path: Path, content: bytes | None, word: str) -> None:
    """A file that is absent or no database ends the command with one line that names it."""
    path = tmp_path / "x.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=word) as caught:
        open_places([path])
    assert str(path) in str(caught.value)
    assert caught.value.code == Exit.FAILURE
    assert "\n" not in str(caught.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without maxminddb the error says how to get it."""
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(CommandError, match=r"pip install 'tracer\[geoip\]'"):
        open_places([tmp_path / "x.mmdb"])


@pytest.mark.parametrize("role", [Role.CONNECT, Role.ACCEPT])
@pytest.mark.parametrize("kind", [Kind.CONNECT, Kind.CLOSE, Kind.SOCKET_FOUND, Kind.FLOW, Kind.UPDATE])
def test_places_in_ocsf(places: Places, kind: Kind, role: Role) -> None:
    """The same facts are in the location and the autonomous system of that end, in valid lines."""
    line = json.loads(Ocsf(SESSION, places=places).render(events.socket(kind, role=role), OFFSET, 0))
    check_ocsf(line)
    far, near = ("src_endpoint", "dst_endpoint") if role is Role.ACCEPT else ("dst_endpoint", "src_endpoint")
    assert line[far]["location"] == {
        "city": "Linköping",
        "country": "SE",
        "region": "SE-E",
        "continent": "Europe",
        "postal_code": "580 02",
        "lat": 58.4167,
        "long": 15.6167,
    }
    assert line[far]["autonomous_system"] == {"number": 29518, "name": "Bredband2 AB"}
    assert line[near].keys() == {"ip", "port"}


def test_places_of_an_answer_in_ocsf(places: Places) -> None:
    """The resolver has its place, too."""
    event = events.answered(remote="93.184.215.1")
    line = json.loads(Ocsf(SESSION, places=places).render(event, OFFSET, 0))
    check_ocsf(line)
    assert line["dst_endpoint"]["location"]["city"] == "Linköping"
    assert line["src_endpoint"].keys() == {"ip", "port"}


def test_a_point_alone_is_no_place_in_ocsf() -> None:
    """OCSF asks for a city, a country, a region or a postal code; a network of which only the name is known is told."""
    known = {"location": {"latitude": 1.5, "longitude": 2.5}, "autonomous_system_organization": "X"}
    assert Places([lambda _: known]).ocsf("192.0.2.1") == ',"autonomous_system":{"name":"X"}'
    assert Places([lambda _: None]).ocsf("192.0.2.1") == ""
