"""Settings about who may call, how they prove who they are, and how much they may ask."""

from pathlib import Path
from typing import Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

_MINUTE: Final = 60.0
_DAY: Final = 86_400.0


class SecuritySettings(BaseSettings):
    """The part of `Settings` that turns security on."""

    secure: bool = Field(
        False,
        description="TLS and authentication by the built-in certificate authority, which is made in "
        "ca_dir if it is not there, with an administrator's token beside it.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM certificate chain of the daemon instead of one that the built-in authority "
        "signs; turns TLS and authentication on. Read again when it changes.",
    )
    tls_key: Path | None = Field(None, description="PEM private key of tls_cert.")
    tls_names: str = Field(
        "",
        description="Further host names and addresses, separated by commas, in the certificate that "
        "the built-in authority signs for the daemon.",
    )
    listen_mtls: str | None = Field(
        None,
        description="gRPC address, host:port, of the port that demands client certificates; agents "
        "use it.",
    )
    ca_dir: Path | None = Field(
        None,
        description="Directory of the built-in certificate authority; all replicas share it. "
        "Default: `ca` in data_dir.",
    )
    trust_domain: str = Field(
        "fleetplane.local",
        pattern=r"^[a-z0-9._-]{1,255}$",
        description="SPIFFE trust domain of the identities that the built-in authority signs.",
    )
    certificate_seconds: float = Field(
        3600.0,
        ge=2,
        le=30 * _DAY,
        description="Life of the certificates of agents; they are renewed at half of it.",
    )
    trust_bundle: Path | None = Field(
        None,
        description="PEM of other authorities whose client certificates are accepted, such as SPIRE's."
        " Read again when it changes.",
    )
    agent_identity: str = Field(
        "",
        description="Which SPIFFE ids of those authorities are agents, such as "
        "spiffe://prod.example/ns/{namespace}/sa/{agent_name}.",
    )
    oidc_issuer: str = Field(
        "", description="Issuer of the OIDC tokens that are accepted, exactly as in their `iss`."
    )
    oidc_audience: str = Field("", description="Audience that the tokens must be for.")
    oidc_jwks: str = Field(
        "",
        description="URL or file of the issuer's keys. Default: what the issuer's "
        ".well-known/openid-configuration says.",
    )
    oidc_user_claim: str = Field("sub", min_length=1, description="Claim with the user's name.")
    oidc_groups_claim: str = Field(
        "groups", min_length=1, description="Claim with the names of the user's groups."
    )
    oidc_algorithms: str = Field(
        "RS256,ES256,EdDSA",
        description="Signature algorithms that are accepted, separated by commas; asymmetric ones.",
    )
    oidc_leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="Clock difference to the issuer that is tolerated."
    )
    admins: str = Field(
        "",
        description="Subjects, separated by commas, that are admin everywhere whatever the bindings "
        "say, such as user:ann@example.com,group:platform.",
    )
    calls_per_second: float = Field(
        2000.0,
        ge=1,
        le=1_000_000,
        description="Calls per second of one authenticated caller and replica; ten seconds' worth may "
        "come at once.",
    )
    streams_per_caller: int = Field(
        1000, ge=1, le=1_000_000, description="Open streams of one authenticated caller and replica."
    )
    beats_per_second: float = Field(
        5000.0,
        ge=1,
        le=1_000_000,
        description="Beats per second of one heartbeat stream of an authenticated caller.",
    )
    max_streams: int = Field(
        20_000, ge=1, le=1_000_000, description="Open streams of one replica."
    )
    overload_lag_seconds: float = Field(
        0.5,
        ge=0.05,
        le=60,
        description="Lag of the event loop from which on calls that can wait are refused.",
    )
    handshake_seconds: float = Field(
        10.0,
        ge=0.1,
        le=_MINUTE,
        description="How long a connection may take to become usable before it is closed.",
    )
    idle_connection_seconds: float = Field(
        600.0,
        ge=0.1,
        le=_DAY,
        description="A connection without calls is closed after so long.",
    )

    @field_validator("listen_mtls")
    @classmethod
    def _a_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - 16 bits
            raise ValueError("must be host:port with a port of 0-65535")
        return value

    @model_validator(mode="after")
    def _nothing_half_said(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise ValueError("oidc_issuer and oidc_audience belong together: both are mandatory")
        if self.oidc_issuer and not self.authenticates:
            raise ValueError("oidc_issuer needs TLS: set secure, or tls_cert and tls_key")
        if self.listen_mtls is not None and not self.authenticates:
            raise ValueError("listen_mtls needs secure, or tls_cert and tls_key")
        if bool(self.agent_identity) and self.trust_bundle is None:
            raise ValueError("agent_identity says nothing without trust_bundle")
        return self

    @property
    def authenticates(self) -> bool:
        """Whether callers have to say who they are."""
        return self.secure or self.tls_cert is not None
