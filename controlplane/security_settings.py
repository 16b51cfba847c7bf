"""Settings about who may call, how they prove who they are, and how much they may ask."""

import ipaddress
import re
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings

from controlplane.domain.access.subjects import check_subject, is_pattern
from controlplane.domain.errors import InvalidArgument

_MINUTE: Final = 60.0
_DAY: Final = 86_400.0
_LAST_PORT: Final = 65_535  # ports are 16 bits wide

_HOST_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_MAX_HOST_NAME: Final = 253  # characters of a name in DNS

ASYMMETRIC_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signature algorithms whose verifier cannot sign."""


class SecuritySettings(BaseSettings):
    """The part of `Settings` that turns security on."""

    secure: bool = Field(
        False,
        description="TLS and authentication by the built-in certificate authority, which is made "
        "in ca_dir if it is not there, with an administrator's token beside it.",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM certificate chain of the daemon instead of one that the built-in "
        "authority signs; turns TLS and authentication on. Read again when it changes.",
    )
    tls_key: Path | None = Field(None, description="PEM private key of tls_cert.")
    tls_names: str = Field(
        "",
        description="Further host names and addresses, separated by commas, in the certificate "
        "that the built-in authority signs for the daemon.",
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
        description="PEM of other authorities whose client certificates are accepted, such as "
        "SPIRE's. Read again when it changes.",
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
        description="Subjects, separated by commas, that are admin everywhere whatever the "
        "bindings say, such as user:ann@example.com,group:platform.",
    )
    calls_per_second: float = Field(
        2000.0,
        ge=1,
        le=1_000_000,
        description="Calls per second of one authenticated caller and replica; ten seconds' worth "
        "may come at once.",
    )
    enrolments_per_second: float = Field(
        1.0,
        gt=0,
        le=1_000_000,
        description="Enrolments per second of one network (an IPv4 address, an IPv6 /64) and "
        "replica; a minute's worth may come at once.",
    )
    wrong_credentials_per_second: float = Field(
        10.0,
        gt=0,
        le=1_000_000,
        description="Calls per second of one network and replica that are told what is wrong with "
        "their credential; ten seconds' worth may come at once, the others are told to wait.",
    )
    streams_per_caller: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Open streams of one authenticated caller and replica.",
    )
    beats_per_second: float = Field(
        5000.0,
        ge=1,
        le=1_000_000,
        description="Beats per second of one heartbeat stream of an authenticated caller.",
    )
    max_streams: int = Field(20_000, ge=1, le=1_000_000, description="Open streams of one replica.")
    overload_lag_seconds: float = Field(
        1.0,  # some 3,000 calls that wait; a machine whose cores are all busy adds tenths of it
        ge=0.05,
        le=60,
        description="How late calls are answered from which on those that can wait are refused.",
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
        if not colon or not host or not port.isdecimal() or int(port) > _LAST_PORT:
            raise ValueError("must be host:port with a port of 0-65535")
        return value

    @field_validator("tls_names")
    @classmethod
    def _names_of_hosts(cls, value: str) -> str:
        for name in _listed(value):
            if not _names_a_host(name):
                raise ValueError(f"{name!r} is neither a host name nor an address")
        return value

    @field_validator("admins")
    @classmethod
    def _subjects(cls, value: str) -> str:
        for subject in _listed(value):
            try:
                check_subject(subject)
            except InvalidArgument as error:
                raise ValueError(f"{subject!r}: {error.violations[0].description}") from None
            if is_pattern(subject):
                raise ValueError(f"{subject!r} must not be a pattern: bind patterns by roles")
        return value

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric(cls, value: str) -> str:
        names = _listed(value)
        if not names or not set(names) <= set(ASYMMETRIC_ALGORITHMS):
            raise ValueError(f"must be some of {', '.join(ASYMMETRIC_ALGORITHMS)}")
        return value

    @field_validator("oidc_issuer", "oidc_jwks")
    @classmethod
    def _safe_url(cls, value: str, info: ValidationInfo) -> str:
        may_be_file = info.field_name == "oidc_jwks" and "://" not in value
        if value and not may_be_file and not is_safe_url(value):
            raise ValueError("must be an https URL; http is for loopback only")
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
        if self.listen_mtls is not None and not self._knows_an_authority:
            raise ValueError("listen_mtls needs secure, ca_dir or trust_bundle: who signs agents?")
        if bool(self.agent_identity) and self.trust_bundle is None:
            raise ValueError("agent_identity says nothing without trust_bundle")
        return self

    @property
    def authenticates(self) -> bool:
        """Whether callers have to say who they are."""
        return self.secure or self.tls_cert is not None

    @property
    def admin_subjects(self) -> frozenset[str]:
        """Subjects that are admin everywhere, whatever the bindings say."""
        return frozenset(_listed(self.admins))

    @property
    def further_names(self) -> tuple[str, ...]:
        """Host names and addresses that the daemon's certificate holds besides the obvious."""
        return _listed(self.tls_names)

    @property
    def accepted_algorithms(self) -> frozenset[str]:
        """Signature algorithms of OIDC tokens."""
        return frozenset(_listed(self.oidc_algorithms))

    @property
    def _knows_an_authority(self) -> bool:
        return self.secure or self.ca_dir is not None or self.trust_bundle is not None


def is_safe_url(url: str) -> bool:
    """Return whether nobody on the way can forge what a URL answers: https, or http to loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, and only this one can reach it by that name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listed(text: str) -> tuple[str, ...]:
    """Return what a text separates by commas."""
    return tuple(part for part in map(str.strip, text.split(",")) if part)


def _names_a_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return len(name) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(name) is not None
    return True
