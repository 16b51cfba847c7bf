"""Operators over strings and clocks: globs, hosts, regular expressions, networks, versions, hours.

The string operators take one pattern or a list of patterns ("any of these"); an attribute that is
not a string, or malformed for the operator (no host name, no address, no version), is an ERROR.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final
from zoneinfo import ZoneInfo

import idna
from semver import Version

from fleetplane_policy.attributes import ResolvedAttribute
from fleetplane_policy.comparisons import LIST_LIMIT
from fleetplane_policy.globs import compile_glob, compile_regex
from fleetplane_policy.truth import ERROR, FALSE, TRUE, Test

_HOST_LIMIT: Final = 253  # characters of a DNS name
_LABEL_LIMIT: Final = 63  # characters of one DNS label
_HOST_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_VERSION_LIMIT: Final = 256  # characters of a version string, as for every name in the product
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60


def _patterns(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    if not values:
        raise ValueError("is an empty list and could never match")
    if len(values) > LIST_LIMIT:
        raise ValueError(f"has more than {LIST_LIMIT} values")
    if not all(isinstance(v, str) and v for v in values):
        raise ValueError("must be a non-empty string, or a list of them")
    return tuple(values)


def _strings_only(matches: Callable[[str], bool]) -> Test:
    return lambda value: (TRUE if matches(value) else FALSE) if isinstance(value, str) else ERROR


def build_text(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`prefix`, `suffix`, `substr`; `ieq` compares without regard to case (casefold)."""
    del attribute
    patterns = _patterns(value)
    if operator == "prefix":
        return _strings_only(lambda text: text.startswith(patterns))
    if operator == "suffix":
        return _strings_only(lambda text: text.endswith(patterns))
    if operator == "substr":
        return _strings_only(lambda text: any(p in text for p in patterns))
    folded = frozenset(p.casefold() for p in patterns)
    return _strings_only(lambda text: text.casefold() in folded)


def build_glob(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`glob`: anchored; segments end at the attribute's delimiters."""
    del operator
    matchers = tuple(compile_glob(p, attribute.delimiters) for p in _patterns(value))
    return _strings_only(lambda text: any(matches(text) for matches in matchers))


def build_regex(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`regex`: RE2, full match."""
    del attribute, operator
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - a refused value, whatever its type
    return _strings_only(compile_regex(value))


def normal_host(text: str) -> str | None:
    """Lower-case a host name and encode it for DNS; None when it is not one."""
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    if not name or len(name) > _HOST_LIMIT:
        return None
    for label in name.split("."):
        if not label or len(label) > _LABEL_LIMIT or not _HOST_CHARACTERS.issuperset(label):
            return None
    return name


def build_host(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`host`: a name, or `*.name` for one or more labels in front of it (never the name itself)."""
    del attribute, operator
    exact, suffixes = set(), []
    for pattern in _patterns(value):
        name = normal_host(pattern.removeprefix("*."))
        if name is None:
            raise ValueError(f"{pattern!r} is not a host name or *.host")
        if pattern.startswith("*."):
            suffixes.append(f".{name}")
        else:
            exact.add(name)
    names, tails = frozenset(exact), tuple(suffixes)

    def test(value: Any) -> int:
        host = normal_host(value) if isinstance(value, str) else None
        if host is None:
            return ERROR
        return TRUE if host in names or host.endswith(tails) else FALSE

    return test


def build_cidr(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`cidr`: the address lies in one of the networks; IPv4-mapped IPv6 counts as IPv4."""
    del attribute, operator
    try:
        networks = tuple(ip_network(p) for p in _patterns(value))
    except ValueError as error:
        raise ValueError(f"is not a network: {error}") from error

    def test(value: Any) -> int:
        address = _address(value)
        if address is None:
            return ERROR
        return TRUE if any(address in network for network in networks) else FALSE

    return test


def _address(value: Any) -> IPv4Address | IPv6Address | None:
    if not isinstance(value, str):
        return None
    try:
        address = ip_address(value)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


_VERSION_TESTS: Final[dict[str, Callable[[int], bool]]] = {
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
    "!=": lambda order: order != 0,
    "==": lambda order: order == 0,
    ">": lambda order: order > 0,
    "<": lambda order: order < 0,
}


def build_semver(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`semver`: comparators that must all hold, such as `>=1.2.0 <2.0.0`; a bare version is ==."""
    del attribute, operator
    if not isinstance(value, str) or not value.split():
        raise ValueError("must be comparators such as '>=1.2.0 <2.0.0'")
    comparators = [_comparator(part) for part in value.split()]

    def test(value: Any) -> int:
        version = _version(value)
        if version is None:
            return ERROR
        return TRUE if all(holds(version.compare(b)) for holds, b in comparators) else FALSE

    return test


def _comparator(part: str) -> tuple[Callable[[int], bool], Version]:
    sign = next((s for s in _VERSION_TESTS if part.startswith(s)), "")
    version = _version(part.removeprefix(sign))
    if version is None:
        raise ValueError(f"{part!r} is not a comparator of a semantic version")
    return _VERSION_TESTS[sign or "=="], version


def _version(value: Any) -> Version | None:
    if not isinstance(value, str) or len(value) > _VERSION_LIMIT:
        return None
    try:
        return Version.parse(value)
    except ValueError:
        return None


def build_time_window(attribute: ResolvedAttribute, operator: str, value: Any) -> Test:
    """`time_window`: {tz, days, start, end} on the local wall clock, half open [start, end).

    `tz` is an IANA name (default UTC), `days` of mon..sun (default all), `start` and `end` are
    HH:MM (`end` may be 24:00). A window that wraps past midnight belongs to the day it starts on.
    """
    del attribute, operator
    if not isinstance(value, dict) or not {"start", "end"} <= value.keys():
        raise ValueError("must be {tz, days, start, end}")
    unknown = value.keys() - {"tz", "days", "start", "end"}
    if unknown:
        raise ValueError(f"has unknown keys {', '.join(sorted(map(str, unknown)))}")
    zone = _zone(value.get("tz", "UTC"))
    days = _weekdays(value.get("days", _DAYS))
    start, end = _minutes(value["start"]), _minutes(value["end"])
    if start in {end, _DAY_MINUTES}:
        raise ValueError("start and end must differ, and start lie before 24:00")

    def test(now_ms: Any) -> int:
        local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone)
        minute = local.hour * 60 + local.minute
        today = local.weekday()
        if start < end:
            return TRUE if start <= minute < end and today in days else FALSE
        if minute >= start:
            return TRUE if today in days else FALSE
        yesterday = (local.date() - timedelta(days=1)).weekday()
        return TRUE if minute < end and yesterday in days else FALSE

    return test


def _zone(name: Any) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"tz {name!r} is not an IANA time zone") from error


def _weekdays(names: Any) -> frozenset[int]:
    if not isinstance(names, list | tuple) or not names or not set(names) <= set(_DAYS):
        raise ValueError(f"days must be a non-empty list of {', '.join(_DAYS)}")
    return frozenset(_DAYS.index(name) for name in names)


def _minutes(text: Any) -> int:
    hours, colon, minutes = text.partition(":") if isinstance(text, str) else ("", "", "")
    digits = hours.isascii() and minutes.isascii() and hours.isdigit() and minutes.isdigit()
    if not colon or not digits or len(hours) > 2 or len(minutes) != 2:  # noqa: PLR2004 - HH:MM
        raise ValueError("start and end are HH:MM")
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > _DAY_MINUTES:  # noqa: PLR2004 - minutes of an hour
        raise ValueError("start and end are HH:MM between 00:00 and 24:00")
    return total
