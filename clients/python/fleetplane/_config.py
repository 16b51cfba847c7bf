"""Configuration as an agent reads it, and the scopes it is set for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from fleetplane._values import JsonValue, from_struct
from fleetplane.v1 import config_service_pb2, watch_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whom a configuration layer applies to; without a field, the whole namespace."""

    agent_name: str = ""
    """All versions and instances of this agent name."""
    agent_id: str = ""
    """Exactly this agent."""
    emergency: bool = False
    """The strongest layer of the namespace, for incidents. Can be written, not watched."""

    def __post_init__(self) -> None:
        """Refuse more than one field.

        Raises:
            ValueError: more than one was given.
        """
        if bool(self.agent_name) + bool(self.agent_id) + self.emergency > 1:
            raise ValueError(
                "a scope is an agent_name, an agent_id, the emergency layer or nothing"
            )

    def to_message(self) -> config_service_pb2.ConfigScope:
        """Return the scope as it travels."""
        return config_service_pb2.ConfigScope(
            agent_name=self.agent_name, agent_id=self.agent_id, emergency=self.emergency
        )

    @classmethod
    def from_message(cls, message: config_service_pb2.ConfigScope) -> "Scope":
        """Read a scope that travelled."""
        return cls(
            agent_name=message.agent_name, agent_id=message.agent_id, emergency=message.emergency
        )


NAMESPACE: Final = Scope()
"""The layer of the whole namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveConfig:
    """Merged configuration of one agent: immutable, complete, with the documented defaults."""

    model: str = "claude-sonnet-4-6"
    """Model to call."""
    temperature: float = 0.7
    """Sampling temperature, 0-2."""
    max_tokens: int = 4096
    """Output bound in tokens."""
    max_retries: int = 3
    """Retries of a failed call."""
    timeout_seconds: float = 30.0
    """Bound of one call in seconds."""
    rate_limit_rpm: int = 60
    """Calls per minute."""
    features: Mapping[str, bool] = field(default_factory=dict)
    """Switches, by name."""
    blocked_tools: tuple[str, ...] = ()
    """Tools that must not be called, sorted."""
    allowed_domains: tuple[str, ...] | None = None
    """Domains that may be reached, sorted; None: any, empty: none."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Free keys."""
    revision: int = 0
    """Newest revision of any layer it is made of; 0 if it is the defaults."""
    digest: str = ""
    """Digest of the values: equal digests mean equal configuration."""

    def feature(self, name: str, *, default: bool = False) -> bool:
        """Return whether a switch is on."""
        return self.features.get(name, default)

    def allows_tool(self, name: str) -> bool:
        """Return whether a tool may be called."""
        return name not in self.blocked_tools

    def allows_domain(self, name: str) -> bool:
        """Return whether a domain may be reached. Names are compared exactly, without case."""
        return self.allowed_domains is None or name.lower() in self.allowed_domains

    @classmethod
    def from_message(cls, message: config_service_pb2.EffectiveConfig) -> "EffectiveConfig":
        """Read a configuration that travelled."""
        return cls(
            model=message.model,
            temperature=message.temperature,
            max_tokens=message.max_tokens,
            max_retries=message.max_retries,
            timeout_seconds=message.timeout_seconds,
            rate_limit_rpm=message.rate_limit_rpm,
            features=MappingProxyType(dict(message.features)),
            blocked_tools=tuple(message.blocked_tools),
            allowed_domains=tuple(message.allowed_domains) if message.restrict_domains else None,
            extra=MappingProxyType(from_struct(message.extra)),
            revision=message.revision,
            digest=message.digest,
        )


@dataclass(frozen=True, slots=True, order=False)
class Position:
    """A place in the history of a namespace: where a watch goes on.

    Revisions are comparable within one epoch only; the epoch changes when the store cannot prove
    that its history is continuous.
    """

    epoch: str = ""
    """Opaque; empty means that nothing is held."""
    revision: int = 0
    """Everything up to here was received."""

    def to_message(self) -> watch_pb2.WatchPosition | None:
        """Return the position as it travels; None if nothing is held."""
        if not self.epoch:
            return None
        return watch_pb2.WatchPosition(epoch=self.epoch, revision=self.revision)

    @classmethod
    def from_message(cls, message: watch_pb2.WatchPosition) -> "Position":
        """Read a position that travelled."""
        return cls(message.epoch, message.revision)

    def covers(self, other: "Position") -> bool:
        """Return whether `other` is in the same history and not newer."""
        return bool(self.epoch) and self.epoch == other.epoch and other.revision <= self.revision


NOWHERE: Final = Position()
"""Nothing is held yet."""
