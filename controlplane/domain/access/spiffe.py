"""SPIFFE ids: how the identities of agents are written, and which of other authorities are agents.

Our own are `spiffe://<trust domain>/ns/<namespace>/agent/<name>`. Only the plain alphabet of the
SPIFFE standard is read: no percent signs, no upper case in the trust domain, no empty, `.` or `..`
segments; so two texts that differ are two identities, and no text is read in two ways.
"""

import re
from typing import Final

from controlplane.domain.access.name_patterns import check_agent_name
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import DEFAULT_NAMESPACE, AgentIdentity, namespace_of

MAX_BYTES: Final = 2048
"""Bytes of a SPIFFE id, by the standard."""

NAMESPACE_PLACE: Final = "{namespace}"
AGENT_NAME_PLACE: Final = "{agent_name}"

_SCHEME: Final = "spiffe://"
_ID: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)+)")
_OWN_PATH: Final = re.compile(r"/ns/([^/]+)/agent/([^/]+)")
_RULE: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")


def agent_spiffe_id(trust_domain: str, agent: AgentIdentity) -> str:
    """Return the identity of an agent as certificates of our own authority carry it."""
    return f"{_SCHEME}{trust_domain}/ns/{agent.namespace}/agent/{agent.agent_name}"


def trust_domain_of(spiffe_id: str) -> str | None:
    """Return the trust domain of a SPIFFE id; None if the text is not a well-formed one."""
    parts = _ID.fullmatch(spiffe_id) if len(spiffe_id) <= MAX_BYTES else None
    return None if parts is None else parts[1]


def own_agent(spiffe_id: str, trust_domain: str) -> AgentIdentity | None:
    """Return which agent an id of our own trust domain means; None if it means none."""
    parts = _ID.fullmatch(spiffe_id) if len(spiffe_id) <= MAX_BYTES else None
    if parts is None or parts[1] != trust_domain:
        return None
    path = _OWN_PATH.fullmatch(parts[2])
    return None if path is None else _agent(path[1], path[2])


class AgentRule:
    """Says which SPIFFE ids of another authority are agents, and which.

    A rule is a SPIFFE id with `{agent_name}` once, and at most once `{namespace}`, each standing
    for characters within one segment and not in the same one; without `{namespace}` agents are in
    `default`. Such as `spiffe://prod.example/ns/{namespace}/sa/{agent_name}`.
    """

    def __init__(self, rule: str) -> None:
        """Read a rule.

        Raises:
            ValueError: it is none; says why.
        """
        for place, least in ((AGENT_NAME_PLACE, 1), (NAMESPACE_PLACE, 0)):
            if not least <= rule.count(place) <= 1:
                often = "exactly once" if least else "at most once"
                raise ValueError(f"{rule!r} must hold {place} {often}")
        if any(part.count("{") > 1 for part in rule.split("/")):
            raise ValueError(f"{rule!r} holds both places in one segment")
        plain = rule.replace(AGENT_NAME_PLACE, "a").replace(NAMESPACE_PLACE, "a")
        shape = _RULE.fullmatch(plain)
        domain = rule.removeprefix(_SCHEME).partition("/")[0]
        if shape is None or shape[1] != domain:
            raise ValueError(
                f"{rule!r} is not a SPIFFE id with {AGENT_NAME_PLACE} and {NAMESPACE_PLACE} in its"
                " path"
            )
        self.trust_domain: Final = domain
        pattern = re.escape(rule)
        for place, group in ((AGENT_NAME_PLACE, "name"), (NAMESPACE_PLACE, "namespace")):
            pattern = pattern.replace(re.escape(place), f"(?P<{group}>[^/]+)")
        self._pattern = re.compile(pattern)

    def agent_of(self, spiffe_id: str) -> AgentIdentity | None:
        """Return which agent an id means; None if it means none."""
        if trust_domain_of(spiffe_id) != self.trust_domain:
            return None
        found = self._pattern.fullmatch(spiffe_id)
        if found is None:
            return None
        said = found.groupdict()
        return _agent(said.get("namespace", DEFAULT_NAMESPACE), said["name"])


def _agent(namespace: str, name: str) -> AgentIdentity | None:
    try:
        return AgentIdentity(namespace=namespace_of(namespace), agent_name=check_agent_name(name))
    except InvalidArgument:
        return None
