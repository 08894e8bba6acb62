"""Places: where an address is, and whose network it is in, from MaxMind databases, as members of an end of a flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from tracer.formats.ecs_values import members

__all__ = ["CACHED_MOST", "Places"]

CACHED_MOST: Final = 8192
"""Addresses whose places are kept as JSON; a few hundred bytes each."""
_TEXT_MOST: Final = 200  # characters of a name: a database is a file of somebody else
_LANGUAGE: Final = "en"
_OCSF_PLACES: Final = {
    "city_name": "city",
    "country_iso_code": "country",
    "region_iso_code": "region",
    "continent_name": "continent",
    "postal_code": "postal_code",
}
_OCSF_NEEDS: Final = frozenset({"city", "country", "postal_code", "region"})  # of which a location has one at least


class Places:
    """What databases say of addresses. Where two of them say the same fact, the first is taken."""

    def __init__(self, lookups: Sequence[Callable[[str], object]]) -> None:
        """Each of ``lookups`` gives a database's record of an address, None for none, or raises ValueError."""
        self._lookups = lookups
        self.members = lru_cache(CACHED_MOST)(self._members)
        self.ocsf = lru_cache(CACHED_MOST)(self._ocsf)

    def at(self, end: str, address: str) -> str:
        """``end``, a JSON object that is not empty, with what is known of its address."""
        return f"{end[:-1]}{self.members(address)}}}"

    def _members(self, address: str) -> str:
        geo, network = self._known(address)
        return members(({"geo": geo} if geo else {}) | ({"as": network} if network else {}))

    def _ocsf(self, address: str) -> str:
        """The same as OCSF has it, as JSON members behind a comma; a point alone is no place there."""
        geo, network = self._known(address)
        found: dict[str, Any] = {}
        place = {ours: geo[name] for name, ours in _OCSF_PLACES.items() if name in geo}
        if place.keys() & _OCSF_NEEDS:
            point = geo.get("location")
            found["location"] = place | ({"lat": point["lat"], "long": point["lon"]} if point else {})
        if network:
            found["autonomous_system"] = {
                **({"number": network["number"]} if "number" in network else {}),
                **({"name": network["organization"]["name"]} if "organization" in network else {}),
            }
        return members(found)

    def _known(self, address: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The members of ECS's geo and as."""
        geo: dict[str, Any] = {}
        network: dict[str, Any] = {}
        for lookup in self._lookups:
            try:
                record = lookup(address)
            except ValueError:
                continue  # an IPv6 address in a database that has none, or a record that can't be decoded
            if isinstance(record, dict):
                geo = _geo(record) | geo
                network = _network(record) | network
        return geo, network


def _geo(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of MaxMind's City and Country databases says, by the names of ECS's geo fields."""
    country, continent = _part(record, "country"), _part(record, "continent")
    divisions = record.get("subdivisions")
    first = divisions[0] if isinstance(divisions, list) and divisions else {}
    region: Mapping[str, Any] = first if isinstance(first, dict) else {}
    place = _part(record, "location")
    country_code, region_code = _text(country.get("iso_code")), _text(region.get("iso_code"))
    found = {
        "city_name": _name(_part(record, "city")),
        "continent_code": _text(continent.get("code")),
        "continent_name": _name(continent),
        "country_iso_code": country_code,
        "country_name": _name(country),
        "location": _point(place.get("longitude"), place.get("latitude")),
        "postal_code": _text(_part(record, "postal").get("code")),
        "region_iso_code": f"{country_code}-{region_code}" if country_code and region_code else None,
        "region_name": _name(region),
        "timezone": _text(place.get("time_zone")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _network(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of MaxMind's ASN databases says."""
    found: dict[str, Any] = {}
    number = record.get("autonomous_system_number")
    if type(number) is int and number > 0:
        found["number"] = number
    name = _text(record.get("autonomous_system_organization"))
    if name is not None:
        found["organization"] = {"name": name}
    return found


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _name(part: Mapping[str, Any]) -> str | None:
    return _text(_part(part, "names").get(_LANGUAGE))


def _text(value: object) -> str | None:
    return value[:_TEXT_MOST] if isinstance(value, str) and value else None


def _point(longitude: object, latitude: object) -> dict[str, float] | None:
    if not (isinstance(longitude, float | int) and isinstance(latitude, float | int)):
        return None
    if not (math.isfinite(longitude) and math.isfinite(latitude) and abs(longitude) <= 180 and abs(latitude) <= 90):
        return None
    return {"lon": longitude, "lat": latitude}
