"""Which agents a caller means: conditions, version ranges, and the reason why one does not fit."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from semver import Version

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus
from controlplane.domain.errors import FieldViolation, InvalidArgument

MAX_CONDITIONS = 64
"""Capabilities, and tags, in one filter: as many as one agent may have."""

MAX_TEXT_BYTES = 256
"""Bytes (UTF-8) of a name, owner, model, tool, capability, tag key or tag value."""

MAX_COMPARISONS = 16
"""Comparisons in one version range: far more than a useful range has, few enough to be cheap."""

_KNOWN_RANGES = 1024
"""Parsed ranges kept: callers repeat a few, and a stranger must not fill the memory."""

_KNOWN_VERSIONS = 16_384
"""Parsed versions kept: more distinct ones than a fleet runs at the same time."""

_OPERATORS: Mapping[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
"""Longer spellings first: `>=` must not be read as `>`."""

ANY_STATUS = frozenset(AgentStatus)
"""A filter on all statuses is none."""


class RejectionReason(StrEnum):
    """Why an agent was not a candidate; conditions are checked in this order."""

    CAPABILITY = "CAPABILITY"
    TAG = "TAG"
    STATUS = "STATUS"
    NAME = "NAME"
    VERSION = "VERSION"
    OWNER = "OWNER"
    MODEL = "MODEL"
    TOOL = "TOOL"
    CAPACITY = "CAPACITY"
    STALLED = "STALLED"
    DRAINING = "DRAINING"
    ROUTE = "ROUTE"


Mismatch = tuple[RejectionReason, str]
"""A reason, and what exactly is missing, in words."""

DRAINING_DETAIL = "is draining and takes no new work"
"""Words of `RejectionReason.DRAINING`, of an agent."""


@lru_cache(maxsize=_KNOWN_VERSIONS)
def parse_version(text: str) -> Version:
    """Return a semantic version (semver 2.0.0).

    Raises:
        ValueError: it is none.
    """
    return Version.parse(text)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Comparisons that must all hold, such as `>=1.2.0,<2.0.0`.

    Order is that of semver 2.0.0: `1.2.0-rc.1 < 1.2.0`, build metadata does not count. A
    pre-release is in a range only if a comparison names a pre-release of the same
    major.minor.patch (npm's rule): `>=1.0.0` never sends work to `2.0.0-rc.1`, and
    `>=2.0.0-rc.1` or `==2.0.0-rc.1` do.
    """

    comparisons: tuple[tuple[str, Version], ...]

    @classmethod
    def parse(cls, text: str) -> "VersionRange":
        """Return the range that a text describes; spaces around its parts do not count.

        Raises:
            ValueError: it is malformed; the message says what is wrong with it.
        """
        return _parse_range(text)

    def contains(self, version: str) -> bool:
        """Whether a version is in the range; a text that is no version is in none."""
        try:
            candidate = parse_version(version)
        except ValueError:
            return False
        if not all(_OPERATORS[sign](candidate, bound) for sign, bound in self.comparisons):
            return False
        if candidate.prerelease is None:
            return True
        core = candidate.to_tuple()[:3]
        return any(
            bound.prerelease is not None and bound.to_tuple()[:3] == core
            for _, bound in self.comparisons
        )


@lru_cache(maxsize=_KNOWN_RANGES)
def _parse_range(text: str) -> VersionRange:
    parts = text.split(",")
    if len(parts) > MAX_COMPARISONS:
        raise ValueError(f"has {len(parts)} comparisons, at most {MAX_COMPARISONS} are allowed")
    return VersionRange(tuple(_parse_comparison(part.strip()) for part in parts))


def _parse_comparison(part: str) -> tuple[str, Version]:
    sign = next((sign for sign in _OPERATORS if part.startswith(sign)), "")
    if not sign:
        raise ValueError(f"{part!r} does not start with one of {' '.join(_OPERATORS)}")
    version = part[len(sign) :].strip()
    try:
        return sign, parse_version(version)
    except ValueError:
        raise ValueError(f"{version!r} is not a semantic version") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFilter:
    """Conditions that must all hold; empty ones are ignored, so `AgentFilter()` is every agent."""

    capabilities: tuple[str, ...] = ()
    """Has all of these."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Carries all of these, with these values."""
    statuses: frozenset[AgentStatus] = frozenset()
    """Is in one of these."""
    name: str = ""
    version_range: str = ""
    """Such as `>=1.2.0,<2.0.0`; see `VersionRange`."""
    owner: str = ""
    model: str = ""
    tool: str = ""
    """May call it."""
    takes_work: bool = False
    """Does not drain. Of its instances it says nothing."""

    @property
    def key(self) -> tuple[object, ...]:
        """Return what identifies the filter, hashable: equal keys select the same agents."""
        return (
            self.capabilities,
            tuple(sorted(self.tags.items())) if self.tags else (),
            self.statuses,
            self.name,
            self.version_range,
            self.owner,
            self.model,
            self.tool,
            self.takes_work,
        )

    def validate(self, path: str = "filter") -> None:
        """Check sizes and the version range.

        Raises:
            InvalidArgument: one violation for every wrong field, such as `filter.capabilities[3]`.
        """
        violations = tuple(self.violations(path))
        if violations:
            raise InvalidArgument(*violations)

    def violations(self, path: str = "filter") -> Iterator[FieldViolation]:
        """Yield what is wrong with the filter; nothing if it is valid."""
        if len(self.capabilities) > MAX_CONDITIONS:
            yield _too_many(f"{path}.capabilities", len(self.capabilities))
        else:
            for index, capability in enumerate(self.capabilities):
                yield from _text(f"{path}.capabilities[{index}]", capability, required=True)
        if len(self.tags) > MAX_CONDITIONS:
            yield _too_many(f"{path}.tags", len(self.tags))
        else:
            for key, value in self.tags.items():
                yield from _text(f"{path}.tags[{key[:MAX_TEXT_BYTES]}]", key, required=True)
                yield from _text(f"{path}.tags[{key[:MAX_TEXT_BYTES]}]", value)
        for what in ("name", "version_range", "owner", "model", "tool"):
            yield from _text(f"{path}.{what}", getattr(self, what))
        if self.version_range:
            try:
                VersionRange.parse(self.version_range)
            except ValueError as error:
                yield FieldViolation(f"{path}.version_range", str(error))

    def matches(self, agent: Agent) -> bool:
        """Whether every condition holds. The filter must be valid."""
        return self.first_mismatch(agent) is None

    def first_mismatch(self, agent: Agent) -> Mismatch | None:
        """Return the first condition that fails, in the order of `RejectionReason`."""
        return next(self.mismatches(agent), None)

    def mismatches(self, agent: Agent) -> Iterator[Mismatch]:
        """Yield every condition that fails, in the order of `RejectionReason`."""
        yield from self._missing_labels(agent.spec)
        spec = agent.spec
        if self.statuses and agent.status not in self.statuses:
            names = " or ".join(status for status in AgentStatus if status in self.statuses)
            yield RejectionReason.STATUS, f"is {agent.status}, not {names}"
        if self.name and spec.name != self.name:
            yield RejectionReason.NAME, f'is named "{spec.name}", not "{self.name}"'
        if self.version_range and not VersionRange.parse(self.version_range).contains(spec.version):
            yield RejectionReason.VERSION, f"version {spec.version} is not {self.version_range}"
        if self.owner and spec.owner != self.owner:
            yield RejectionReason.OWNER, f'belongs to "{spec.owner}", not "{self.owner}"'
        if self.model and spec.model != self.model:
            yield RejectionReason.MODEL, f'was built for "{spec.model}", not "{self.model}"'
        if self.tool and self.tool not in spec.tools:
            yield RejectionReason.TOOL, f'may not call tool "{self.tool}"'
        if self.takes_work and agent.draining:
            yield RejectionReason.DRAINING, DRAINING_DETAIL

    def _missing_labels(self, spec: AgentSpec) -> Iterator[Mismatch]:
        for capability in self.capabilities:
            if capability not in spec.capabilities:
                yield RejectionReason.CAPABILITY, f'lacks capability "{capability}"'
        for key, wanted in self.tags.items():
            value = spec.tags.get(key)
            if value is None:
                yield RejectionReason.TAG, f'lacks tag "{key}"'
            elif value != wanted:
                yield RejectionReason.TAG, f'tag "{key}" is "{value}", not "{wanted}"'


def _too_many(path: str, size: int) -> FieldViolation:
    return FieldViolation(path, f"has {size} entries, at most {MAX_CONDITIONS} are allowed")


def _text(path: str, value: str, *, required: bool = False) -> Iterator[FieldViolation]:
    problem = text_problem(value, MAX_TEXT_BYTES, required=required)
    if problem is not None:
        yield FieldViolation(path, problem)


def text_problem(value: str, max_bytes: int, *, required: bool = False) -> str | None:
    """Return what is wrong with a text of at most `max_bytes` in UTF-8, or None."""
    if not value:
        return "must not be empty" if required else None
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return "is not valid Unicode"
    return f"has {size} bytes, at most {max_bytes} are allowed" if size > max_bytes else None
