"""What may be registered: limits of an agent's declaration, and how an update changes it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from controlplane.domain.agents import AgentSpec
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.selection import parse_version, text_problem

MAX_NAME_BYTES = 256
"""Bytes of a name, version, owner, model, capability, tool, tag key and tag value."""

MAX_ID_BYTES = 256
"""Bytes of an agent_id and an instance_id."""

MAX_DESCRIPTION_BYTES = 4096
"""Bytes of a description: a page, and what text ranking reads per candidate."""

MAX_URL_BYTES = 2048
"""Bytes of an endpoint: what browsers and proxies agree on."""

MAX_ENTRIES = 64
"""Capabilities, tools and tags of one agent, each."""

MAX_CONCURRENCY = 100_000
"""Tasks of one instance at the same time; beyond it is a mistake of units."""

MAX_TIMEOUT_SECONDS = 86_400
"""Seconds of one task: a day."""

MIN_SILENCE_MS = 1_000
"""Shortest silence that may be judged: below it, jitter of the network looks like a failure."""

MAX_DEGRADED_AFTER_MS = 86_400_000
"""Longest silence before DEGRADED: a day."""

MAX_LOST_AFTER_MS = 7 * 86_400_000
"""Longest silence before LOST: a week."""

_ID = re.compile(r"[A-Za-z0-9._:-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_WRITABLE: Mapping[str, str] = {
    "description": "description",
    "owner": "owner",
    "capabilities": "capabilities",
    "tools": "tools",
    "model": "model",
    "endpoint": "endpoint",
    "max_concurrency": "max_concurrency",
    "timeout_seconds": "timeout_seconds",
    "tags": "tags",
    "activation": "activation",
    "degraded_after": "degraded_after_ms",
    "lost_after": "lost_after_ms",
}
"""Path in an update mask -> field of AgentSpec."""

_IDENTITY = frozenset({"name", "version"})


def validate_spec(spec: AgentSpec, path: str = "spec") -> tuple[FieldViolation, ...]:
    """Return everything that is wrong with a declaration, with paths such as `spec.tools[3]`.

    `lost_after` without `degraded_after` is only held against its own limits here: what it must
    exceed is a setting of the daemon.
    """
    return tuple(_spec_violations(spec, path))


def _spec_violations(spec: AgentSpec, path: str) -> Iterator[FieldViolation]:
    problem = _name_problem(spec.name)
    if problem is not None:
        yield FieldViolation(f"{path}.name", problem)
    problem = _version_problem(spec.version)
    if problem is not None:
        yield FieldViolation(f"{path}.version", problem)
    for field, value, limit in (
        ("description", spec.description, MAX_DESCRIPTION_BYTES),
        ("owner", spec.owner, MAX_NAME_BYTES),
        ("model", spec.model, MAX_NAME_BYTES),
    ):
        problem = text_problem(value, limit)
        if problem is not None:
            yield FieldViolation(f"{path}.{field}", problem)
    yield from _list_violations(spec.capabilities, f"{path}.capabilities")
    yield from _list_violations(spec.tools, f"{path}.tools")
    if spec.tags:
        yield from _tag_violations(spec.tags, f"{path}.tags")
    if spec.endpoint:
        yield from endpoint_violations(spec.endpoint, f"{path}.endpoint")
    yield from _number_violations(spec, path)


def _name_problem(name: str) -> str | None:
    problem = text_problem(name, MAX_NAME_BYTES, required=True)
    if problem is None and _NAME.fullmatch(name) is None:
        return "must be [A-Za-z0-9._-] and start with a letter or digit"
    return problem


def _version_problem(version: str) -> str | None:
    problem = text_problem(version, MAX_NAME_BYTES, required=True)
    if problem is None:
        try:
            parse_version(version)
        except ValueError:
            return "is not a semantic version such as 2.1.0 or 2.1.0-rc.1"
    return problem


def _list_violations(values: tuple[str, ...], path: str) -> Iterator[FieldViolation]:
    if len(values) > MAX_ENTRIES:
        yield _too_many(path, len(values))
        return
    distinct = len(set(values)) == len(values)
    for index, value in enumerate(values):
        problem = text_problem(value, MAX_NAME_BYTES, required=True)
        if problem is None and not distinct and value in values[:index]:
            problem = f'repeats "{value}"'
        if problem is not None:
            yield FieldViolation(f"{path}[{index}]", problem)


def _tag_violations(tags: Mapping[str, str], path: str) -> Iterator[FieldViolation]:
    if len(tags) > MAX_ENTRIES:
        yield _too_many(path, len(tags))
        return
    for key, value in tags.items():
        problem = text_problem(key, MAX_NAME_BYTES, required=True)
        if problem is not None:
            yield FieldViolation(f"{path}[{key[:MAX_NAME_BYTES]}]", f"its key {problem}")
        problem = text_problem(value, MAX_NAME_BYTES)
        if problem is not None:
            yield FieldViolation(f"{path}[{key[:MAX_NAME_BYTES]}]", problem)


def _too_many(path: str, size: int) -> FieldViolation:
    return FieldViolation(path, f"has {size} entries, at most {MAX_ENTRIES} are allowed")


def _number_violations(spec: AgentSpec, path: str) -> Iterator[FieldViolation]:
    if not 1 <= spec.max_concurrency <= MAX_CONCURRENCY:
        yield FieldViolation(f"{path}.max_concurrency", f"must be 1-{MAX_CONCURRENCY}")
    if not 1 <= spec.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        yield FieldViolation(f"{path}.timeout_seconds", f"must be 1-{MAX_TIMEOUT_SECONDS} seconds")
    degraded, lost = spec.degraded_after_ms, spec.lost_after_ms
    if degraded is not None and not MIN_SILENCE_MS <= degraded <= MAX_DEGRADED_AFTER_MS:
        yield FieldViolation(f"{path}.degraded_after", "must be 1 s - 24 h")
    if lost is None:
        return
    if not MIN_SILENCE_MS < lost <= MAX_LOST_AFTER_MS:
        yield FieldViolation(f"{path}.lost_after", "must be more than 1 s and at most 7 days")
    elif degraded is not None and lost <= degraded:
        yield FieldViolation(f"{path}.lost_after", "must be longer than degraded_after")


def endpoint_violations(endpoint: str, path: str) -> Iterator[FieldViolation]:
    """Yield what is wrong with a URL of an agent or instance; an empty one is fine."""
    problem = text_problem(endpoint, MAX_URL_BYTES)
    if problem is None and endpoint and not _is_web_url(endpoint):
        problem = "must be an http or https URL with a host"
    if problem is not None:
        yield FieldViolation(path, problem)


def _is_web_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # A broken IPv6 address or a port that is no number.
        return False


def validate_agent_id(agent_id: str, path: str = "agent_id") -> None:
    """Check an agent_id: 1-256 bytes of `[A-Za-z0-9._:-]`.

    Raises:
        InvalidArgument: it is none.
    """
    _validate_id(agent_id, path)


def validate_instance_id(instance_id: str, path: str = "instance_id") -> None:
    """Check an instance_id: 1-256 bytes of `[A-Za-z0-9._:-]`.

    Raises:
        InvalidArgument: it is none.
    """
    _validate_id(instance_id, path)


def _validate_id(identity: str, path: str) -> None:
    problem = text_problem(identity, MAX_ID_BYTES, required=True)
    if problem is None and _ID.fullmatch(identity) is None:
        problem = "must be [A-Za-z0-9._:-]"
    if problem is not None:
        raise InvalidArgument.of(path, problem)


def apply_mask(current: AgentSpec, new: AgentSpec, paths: Iterable[str]) -> AgentSpec:
    """Return `current` with the fields that `paths` names taken from `new`.

    Paths are those of `AgentSpec` on the wire, such as `tags` or `lost_after`; a field that `new`
    does not carry goes back to its default.

    Raises:
        InvalidArgument: no path, or one that is unknown, part of the identity or `*`
            (`update_mask`); or the result breaks a limit (`spec.<field>`).
    """
    changes: dict[str, object] = {}
    violations: list[FieldViolation] = []
    for path in paths:
        field = _WRITABLE.get(path)
        if field is not None:
            changes[field] = getattr(new, field)
        elif path in _IDENTITY:
            violations.append(FieldViolation("update_mask", f"{path} is identity and stays"))
        else:
            known = ", ".join(_WRITABLE)
            violations.append(
                FieldViolation("update_mask", f"{path[:MAX_NAME_BYTES]!r} is none of {known}")
            )
    if not changes and not violations:
        violations.append(FieldViolation("update_mask", "must name at least one field"))
    if violations:
        raise InvalidArgument(*violations)
    # `replace` cannot be typed for a dynamic set of fields; _WRITABLE pairs names and types.
    changed = replace(current, **changes)  # type: ignore[arg-type]
    violations.extend(validate_spec(changed))
    if violations:
        raise InvalidArgument(*violations)
    return changed


def content_equal(a: AgentSpec, b: AgentSpec) -> bool:
    """Whether two declarations say the same; the order of capabilities and tools says nothing."""
    return a == b or _in_order(a) == _in_order(b)


def _in_order(spec: AgentSpec) -> AgentSpec:
    return replace(
        spec,
        capabilities=tuple(sorted(spec.capabilities)),
        tools=tuple(sorted(spec.tools)),
        tags=dict(spec.tags),
    )
