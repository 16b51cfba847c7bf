"""Credentials between the wire and the domain."""

from typing import Final

from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.values import bounded_ms, duration_to_ms, moment, ms_to_timestamp
from controlplane.domain.access.permissions import EVERYWHERE
from controlplane.domain.access.records import ApiToken, Ban, JoinToken
from controlplane.domain.identity import CallerKind, namespace_of
from controlplane.services.access.api_tokens import ListedApiToken
from controlplane.services.access.enrolment import Enrolled
from controlplane.services.access.who_am_i import HeldRole, Identity
from fleetplane.v1 import identity_service_pb2 as pb

DEFAULT_USES: Final = 1
"""Enrolments of a join token that says nothing about them."""

_SECOND_MS: Final = 1_000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS

_JOIN_TOKEN_MS: Final = _HOUR_MS  # of one that says nothing: long enough to start an agent with it
_LONGEST_JOIN_TOKEN_MS: Final = 365 * _DAY_MS
_API_TOKEN_MS: Final = 90 * _DAY_MS  # of one that says nothing
_LONGEST_API_TOKEN_MS: Final = 3_653 * _DAY_MS  # 10 years with their leap days

_KINDS: Final = {
    CallerKind.LOCAL_ADMIN: pb.CALLER_KIND_LOCAL_ADMIN,
    CallerKind.AGENT: pb.CALLER_KIND_AGENT,
    CallerKind.USER: pb.CALLER_KIND_USER,
    CallerKind.API_TOKEN: pb.CALLER_KIND_API_TOKEN,
    CallerKind.WORKLOAD: pb.CALLER_KIND_WORKLOAD,
}
"""Nobody is told that it is nobody: WhoAmI refuses such callers."""


def place_of(text: str) -> str:
    """Return the namespace that `text` names, or `*`; empty means `default`.

    Raises:
        InvalidArgument: field `namespace`; it is neither.
    """
    return EVERYWHERE if text == EVERYWHERE else namespace_of(text)


def uses_from_proto(request: pb.CreateJoinTokenRequest) -> int:
    """Return how many enrolments a join token is to be good for; 0: any number."""
    return request.max_uses if request.HasField("max_uses") else DEFAULT_USES


def join_token_life_ms(request: pb.CreateJoinTokenRequest) -> int:
    """Return how long a join token is to be good for.

    Raises:
        InvalidArgument: field `ttl`, out of bounds.
    """
    if not request.HasField("ttl"):
        return _JOIN_TOKEN_MS
    most = _LONGEST_JOIN_TOKEN_MS
    return bounded_ms(request.ttl, "ttl", least=_SECOND_MS, most=most, said="1 s - 365 days")


def api_token_life_ms(request: pb.CreateApiTokenRequest) -> int:
    """Return how long an API token is to be good for; 0: for ever.

    Raises:
        InvalidArgument: field `ttl`, out of bounds.
    """
    if not request.HasField("ttl"):
        return _API_TOKEN_MS
    ttl: Duration = request.ttl
    if duration_to_ms(ttl, "ttl") == 0:
        return 0
    most = _LONGEST_API_TOKEN_MS
    said = "1 s - 10 years, or zero for ever"
    return bounded_ms(ttl, "ttl", least=_SECOND_MS, most=most, said=said)


def join_token_to_proto(token: JoinToken, uses: int) -> pb.JoinToken:
    """Return a join token, without its secret."""
    return pb.JoinToken(
        token_id=token.token_id,
        namespace=token.namespace,
        agent_name_pattern=token.agent_name_pattern,
        max_uses=token.max_uses,
        uses=uses,
        description=token.description,
        created_by=token.created_by,
        created_at=moment(token.created_at_ms),
        expires_at=moment(token.expires_at_ms),
        revoked=token.revoked,
    )


def api_token_to_proto(token: ApiToken, last_used_at_ms: int = 0) -> pb.ApiToken:
    """Return an API token, without its secret."""
    return pb.ApiToken(
        token_id=token.token_id,
        namespace=token.namespace,
        name=token.name,
        created_by=token.created_by,
        created_at=moment(token.created_at_ms),
        expires_at=moment(token.expires_at_ms),
        last_used_at=moment(last_used_at_ms),
        revoked=token.revoked,
    )


def listed_to_proto(listed: ListedApiToken) -> pb.ApiToken:
    """Return an API token with the time of its last use."""
    return api_token_to_proto(listed.token, listed.last_used_at_ms)


def ban_to_proto(ban: Ban) -> pb.Ban:
    """Return a ban."""
    return pb.Ban(
        namespace=ban.namespace,
        agent_name=ban.agent_name,
        reason=ban.reason,
        banned_by=ban.banned_by,
        banned_at=moment(ban.created_at_ms),
    )


def enrolled_to_proto(enrolled: Enrolled) -> pb.IssuedCertificate:
    """Return a certificate with all that is needed to use it."""
    certificate = enrolled.certificate
    return pb.IssuedCertificate(
        certificate_chain=certificate.chain_pem,
        trust_bundle=certificate.bundle_pem,
        spiffe_id=enrolled.spiffe_id,
        expires_at=ms_to_timestamp(certificate.not_after_ms),
        renew_after=ms_to_timestamp(enrolled.renew_after_ms),
    )


def identity_to_proto(identity: Identity) -> pb.WhoAmIResponse:
    """Return who a caller is."""
    caller = identity.caller
    agent = caller.agent
    return pb.WhoAmIResponse(
        name=caller.name,
        kind=_KINDS[caller.kind],
        subjects=caller.subjects,
        namespace=agent.namespace if agent is not None else "",
        agent_name=agent.agent_name if agent is not None else "",
        roles=[_held_to_proto(held) for held in identity.roles],
        expires_at=moment(caller.expires_at_ms),
        authentication=identity.authentication,
    )


def _held_to_proto(held: HeldRole) -> pb.HeldRole:
    return pb.HeldRole(role=held.role, namespace=held.namespace, binding_id=held.binding_id)
