"""Builds what says who may do what: rights, credentials, namespaces, limits, and their services.

Constructor calls only, like `wiring`, which uses it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from controlplane.api.concerns import standard_concerns
from controlplane.api.confinement import CONFINED
from controlplane.api.convert.access import needed_by_rpc
from controlplane.api.drain import Drain
from controlplane.api.gate import Gate
from controlplane.api.identification import Identification
from controlplane.api.limits.admission import Admission
from controlplane.api.limits.call_limits import CallLimits
from controlplane.api.limits.front_door import FrontDoor
from controlplane.api.methods import METHODS
from controlplane.api.pagination import PageTokens
from controlplane.api.pipeline import Pipeline
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.v1.access_service import AccessService
from controlplane.api.v1.identity_service import IdentityService
from controlplane.api.v1.namespace_service import NamespaceService
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.spiffe import AgentRule, own_agent
from controlplane.domain.identity import AgentIdentity, Caller
from controlplane.services.access.api_tokens import ApiTokens
from controlplane.services.access.authenticator import Authenticator
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.bans import Bans
from controlplane.services.access.bindings import Bindings
from controlplane.services.access.enrolment import Enrolment
from controlplane.services.access.explain import AccessCheck
from controlplane.services.access.join_tokens import JoinTokens
from controlplane.services.access.ports import (
    CertificateAuthority,
    CertificateReader,
    TokenVerifier,
)
from controlplane.services.access.token_uses import TokenUses
from controlplane.services.access.who_am_i import WhoAmI
from controlplane.services.audit.refused import RefusedCalls
from controlplane.services.hub import Hub
from controlplane.services.namespaces.namespaces import Namespaces
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.namespaces.removal import NamespaceRemoval
from controlplane.services.namespaces.usage import ConfigBytes, Usage
from controlplane.services.policies.decision_log_port import DecisionLog
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.read_model import ReadModel
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.lag_meter import LagMeter
from controlplane.tasks.namespace_reconciler import NamespaceReconciler
from controlplane.tasks.refusal_writer import RefusalWriter
from fleetplane.v1 import (
    access_service_pb2_grpc,
    identity_service_pb2_grpc,
    namespace_service_pb2_grpc,
)


class AccessParts:
    """One replica's share of it."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        decision_log: DecisionLog,
        visible: VisibleLedger,
        read_model: ReadModel,
        hub: Hub,
        clock: Clock,
        ids: IdSource,
        page_tokens: PageTokens,
        verifier: TokenVerifier | None,
        reader: CertificateReader | None,
        authority: CertificateAuthority | None,
    ) -> None:
        self._settings = settings
        self._visible = visible
        self._read_model = read_model
        self._clock = clock
        self._ids = ids
        self._page_tokens = page_tokens
        self._authority = authority
        admins = frozenset(filter(None, map(str.strip, settings.admins.split(","))))
        self._authoriser = Authoriser(
            read_model, clock, authenticates=settings.authenticates, admins=admins
        )
        self.guard = StreamGuard(self._authoriser, hub, clock)
        self.limits = CallLimits(
            read_model,
            clock,
            calls_per_second=settings.calls_per_second,
            streams_per_caller=settings.streams_per_caller,
            beats_per_second=settings.beats_per_second,
            max_streams=settings.max_streams,
            enrolments_per_second=settings.enrolments_per_second,
            wrong_credentials_per_second=settings.wrong_credentials_per_second,
        )
        self.gate = Gate(self._authoriser, read_model, ledger, self.limits.entered)
        self.front_door = FrontDoor(overload_lag_seconds=settings.overload_lag_seconds)
        self._lag = LagMeter(
            clock, warn_seconds=settings.overload_lag_seconds, knock=self.front_door.knock
        )
        self.admission = Admission(self._lag, overload_lag_seconds=settings.overload_lag_seconds)
        self._sizes = ConfigBytes()
        self.quotas = QuotaKeeper(read_model, self._sizes)
        self.api_tokens = ApiTokens(visible, read_model, ids, clock, self._authoriser)
        self._refused = RefusedCalls(ledger, read_model, clock)
        self._token_uses = TokenUses(ledger, read_model, clock)
        self._removal = NamespaceRemoval(
            visible, read_model, clock, erase_decisions=decision_log.erase
        )
        self.identification = self._identification(verifier, reader, admins)

    def may(self, caller: Caller, permission: Permission, namespace: str) -> bool:
        """Return whether a caller has a permission in a namespace."""
        return self._authoriser.objection(caller, permission, namespace) is None

    def _identification(
        self,
        verifier: TokenVerifier | None,
        reader: CertificateReader | None,
        admins: frozenset[str],
    ) -> Identification:
        settings = self._settings
        if not settings.authenticates:
            return Identification(None, reads_certificates=False)
        authenticator = Authenticator(
            self._read_model,
            self._clock,
            verifier=verifier,
            reader=reader,
            trust_domain=settings.trust_domain,
            agent_identity=settings.agent_identity,
            admins=admins,
            on_token_use=self._token_uses.note,
        )
        return Identification(authenticator, reads_certificates=settings.listen_mtls is not None)

    def pipeline(self, drain: Drain) -> Pipeline:
        """Return what is around every handler."""
        concerns = standard_concerns(
            drain,
            self.identification,
            limits=self.limits,
            admits=self.admission,
            refused=self._refused,
        )
        return Pipeline(concerns, gate=self.gate)

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        reconciler = NamespaceReconciler(self._removal, self._clock)
        writer = RefusalWriter(self._refused, self._clock)
        return (
            self.guard.run,
            self._lag.run,
            self._token_uses.run,
            reconciler.run,
            writer.run,
        )

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the services about identity, rights and namespaces."""
        add = (
            identity_service_pb2_grpc.add_IdentityServiceServicer_to_server,
            access_service_pb2_grpc.add_AccessServiceServicer_to_server,
            namespace_service_pb2_grpc.add_NamespaceServiceServicer_to_server,
        )
        add[0](self._identity_service(), server)
        add[1](self._access_service(), server)
        add[2](self._namespace_service(), server)

    def _identity_service(self) -> IdentityService:
        visible, read_model, clock = self._visible, self._read_model, self._clock
        return IdentityService(
            Enrolment(visible, clock, self._authority),
            JoinTokens(visible, read_model, self._ids, clock, self._authoriser),
            self.api_tokens,
            Bans(visible, read_model, clock, self._authoriser),
            WhoAmI(read_model, clock, authenticates=self._settings.authenticates),
            self._page_tokens,
        )

    def _access_service(self) -> AccessService:
        check = AccessCheck(
            self._read_model,
            self._authoriser,
            methods=needed_by_rpc(METHODS, CONFINED),
            agent_of=_agents(self._settings),
        )
        bindings = Bindings(self._visible, self._read_model, self._clock, self._authoriser)
        return AccessService(bindings, check, self._page_tokens)

    def _namespace_service(self) -> NamespaceService:
        namespaces = Namespaces(self._visible, self._read_model, self._authoriser, self._removal)
        usage = Usage(self._read_model, self._sizes, self.limits)
        return NamespaceService(namespaces, usage, self._page_tokens)


def _agents(settings: Settings) -> Callable[[str], AgentIdentity | None]:
    """Return what says which agent a SPIFFE id means."""
    rule = AgentRule(settings.agent_identity) if settings.agent_identity else None

    def agent_of(spiffe_id: str) -> AgentIdentity | None:
        own = own_agent(spiffe_id, settings.trust_domain)
        return rule.agent_of(spiffe_id) if own is None and rule is not None else own

    return agent_of
