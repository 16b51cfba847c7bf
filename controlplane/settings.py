"""Settings of the daemon; the only reader of the environment.

Every field is also an environment variable `FLEETPLANE_<FIELD>`; flags of `fleetplane serve` win.
Other variables with that prefix are ignored: the SDK and the command line have some as well.
"""

from enum import StrEnum
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from controlplane.domain.liveness import BEATS_PER_GRANT
from controlplane.governance_settings import GovernanceSettings
from controlplane.security_settings import SecuritySettings

EMBEDDED = "embedded"

_LAST_PORT = 65_535  # ports are 16 bits wide


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    JSON = "json"


class DefaultEffect(StrEnum):
    """What the policies answer when none matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"


class DefaultOnMissing(StrEnum):
    """What an absent attribute means to policies that do not say."""

    NO_MATCH = "NO_MATCH"
    MATCH = "MATCH"


class Settings(SecuritySettings, GovernanceSettings):
    """Everything that can be chosen when the daemon starts. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix="FLEETPLANE_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    listen: str = Field(
        "127.0.0.1:50051",
        description="gRPC address: host:port (port 0 picks a free one) or unix:/path.",
    )
    insecure: bool = Field(
        False, description="Allow an address other than loopback without TLS and authentication."
    )
    store: str = Field(
        EMBEDDED,
        description="`embedded`, or a URL: redis://, rediss://, unix://, redis+sentinel://, "
        "redis+cluster://.",
    )
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("fleetplane", appauthor=False)),
        description="Where the embedded store keeps its data.",
    )
    store_binary: Path | None = Field(
        None, description="Server binary of the embedded store, instead of the bundled Valkey."
    )
    runtime_dir: Path | None = Field(
        None,
        validation_alias=AliasChoices("FLEETPLANE_RUNTIME_DIR", "XDG_RUNTIME_DIR", "runtime_dir"),
        description="Where the embedded store keeps its socket.",
    )
    store_fsync: Literal["everysec", "always"] = Field(
        "everysec",
        description="Durability of the embedded store: `everysec` may lose the last second in a "
        "power cut, `always` nothing.",
    )
    workers: int = Field(1, ge=1, le=64, description="Processes that share the port.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="`console` or `json`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    reflection: bool = Field(True, description="Serve gRPC reflection, for grpcurl.")
    grace_seconds: float = Field(
        10.0, ge=0, le=3600, description="How long calls in flight may take when it shuts down."
    )
    drain_delay_seconds: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Pause between NOT_SERVING and the drain, for load balancers to notice.",
    )
    unready_after_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Health says NOT_SERVING when the store has been away for so long.",
    )
    heartbeat_interval_seconds: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="How often agents are told to beat; at most a third of degraded_after_seconds.",
    )
    degraded_after_seconds: float = Field(
        30.0, ge=0.3, le=86_400, description="Silence before DEGRADED."
    )
    lost_after_seconds: float = Field(
        300.0,
        ge=1,
        le=604_800,
        description="Silence before INACTIVE (LOST); longer than degraded_after_seconds.",
    )
    stalled_after_seconds: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="Progress standing still for so long, with tasks in flight, means STALLED.",
    )
    policy_default: DefaultEffect = Field(
        DefaultEffect.ALLOW,
        description="What the policies answer when none matches, where a namespace sets nothing.",
    )
    policy_on_missing: DefaultOnMissing = Field(
        DefaultOnMissing.NO_MATCH,
        description="What an absent attribute means to policies that do not say: MATCH makes "
        "DENY and REQUIRE_APPROVAL match. Namespaces may set another.",
    )
    max_policies: int = Field(1000, ge=1, le=100_000, description="Policies per namespace.")
    decision_log_hours: float = Field(
        168.0, gt=0, le=87_600, description="How long recorded decisions are kept."
    )
    decision_log_mib: int = Field(
        256,
        ge=1,
        le=1_048_576,
        description="MiB of recorded decisions, packed, per namespace; the oldest go first.",
    )
    decision_queue: int = Field(
        50_000,
        ge=100,
        le=10_000_000,
        description="Decisions that wait for the store in each process; beyond, they are lost, "
        "and the log says how many.",
    )
    task_accept_seconds: float = Field(
        10.0,
        ge=0.5,
        le=3600,
        description="An assigned task that is not accepted for so long goes to another instance.",
    )
    task_retention_seconds: float = Field(
        86_400.0, ge=1, le=31_536_000, description="How long tasks that have ended are kept."
    )
    max_waiting_tasks: int = Field(
        100_000, ge=1, le=10_000_000, description="Waiting tasks per namespace."
    )
    session_pin_seconds: float = Field(
        3600.0,
        ge=1,
        le=2_592_000,
        description="How long a session without tasks stays with the version that it began with.",
    )
    audit_key_file: Path | None = Field(
        None,
        description="Keys that the audit is sealed with, one per line in hex or base64: the first "
        "one seals, the others verify what was sealed with them. All replicas need the same.",
    )
    audit_retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="Days that entries of the audit are kept, and longer until they are exported; "
        "0: for ever.",
    )
    max_prompts: int = Field(1000, ge=1, le=100_000, description="Prompts per namespace.")
    max_prompt_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        le=1024**3,
        description="Bytes of all versions of all prompts per namespace; every replica holds them.",
    )
    prompt_pin_seconds: float = Field(
        86_400.0,
        ge=1,
        le=31_536_000,
        description="A session keeps its version of a prompt until nobody asked for so long.",
    )
    max_prompt_pins: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="Sessions per namespace and prompt that keep their version; beyond, none more.",
    )
    prompt_evaluations_kept: int = Field(
        100, ge=2, le=10_000, description="Newest evaluations kept per prompt."
    )
    max_stream_age_seconds: float = Field(
        1800.0,
        ge=1,
        le=86_400,
        description="Streams are asked to reconnect after about so long, to spread the load.",
    )

    @field_validator("listen")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value.startswith("unix:"):
            return value
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > _LAST_PORT:
            raise ValueError("must be host:port with a port of 0-65535, or unix:/path")
        return value

    @field_validator("degraded_after_seconds")
    @classmethod
    def _three_intervals(cls, value: float, info: ValidationInfo) -> float:
        interval = info.data.get("heartbeat_interval_seconds")
        if interval is not None and _ms(interval) > _ms(value) // BEATS_PER_GRANT:
            raise ValueError(
                f"{value:g} is less than three times heartbeat_interval_seconds ({interval:g}): "
                "one beat may be lost and one late before an agent counts as silent"
            )
        return value

    @field_validator("lost_after_seconds")
    @classmethod
    def _longer_than_degraded(cls, value: float, info: ValidationInfo) -> float:
        degraded = info.data.get("degraded_after_seconds")
        if degraded is not None and _ms(value) <= _ms(degraded):
            raise ValueError(f"{value:g} must be longer than degraded_after_seconds ({degraded:g})")
        return value

    @property
    def authority_dir(self) -> Path:
        """Where the built-in certificate authority is."""
        return self.ca_dir or self.data_dir / "ca"

    @property
    def uses_embedded_store(self) -> bool:
        """Whether the daemon runs its own store."""
        return self.store == EMBEDDED


def _ms(seconds: float) -> int:
    """Return whole milliseconds, as the daemon counts."""
    return round(seconds * 1000)
