"""Builds what keeps policies, what decides by them, and what records decisions.

Constructor calls only, like `replica`, which calls it.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from controlplane.api.pagination import PageTokens
from controlplane.api.streams import StreamKeeper
from controlplane.api.v1.decision_service import DecisionService, DecisionUseCases
from controlplane.api.v1.policy_service import PolicyService
from controlplane.api.v1.policy_sets import PolicySetUseCases
from controlplane.domain.policies import Effect, OnMissing
from controlplane.domain.policy_settings import PolicyDefaults
from controlplane.services.approvals.opening import ApprovalOpening
from controlplane.services.hub import Hub
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.policies.activations import PolicyActivations
from controlplane.services.policies.candidates import Candidates
from controlplane.services.policies.decision_history import DecisionHistory
from controlplane.services.policies.decision_log_port import DecisionLog
from controlplane.services.policies.decision_replay import DecisionReplay
from controlplane.services.policies.decision_reports import DecisionReports
from controlplane.services.policies.decisions import DecisionIds, Decisions
from controlplane.services.policies.policies import Policies
from controlplane.services.policies.policy_tests import LiveTests, TestRuns
from controlplane.services.policies.policy_watch import PolicyWatches
from controlplane.services.policies.recorded_decisions import RecordedDecisions
from controlplane.services.policies.recorder import Recorder
from controlplane.services.policies.revisions import Revisions
from controlplane.services.policies.settings import PolicySettingsKeeper
from controlplane.services.policies.shadow import Shadow
from controlplane.services.policies.simulation import Simulations
from controlplane.services.policies.stages import StageReports, Stages
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.read_model import ReadModel
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.decision_flusher import DecisionFlusher
from controlplane.tasks.shadow_comparison import ShadowComparison
from fleetplane.v1 import decision_service_pb2_grpc, policy_service_pb2_grpc


class PolicyParts:
    """One replica's share of it."""

    def __init__(
        self,
        settings: Settings,
        log: DecisionLog,
        *,
        ledger: Ledger,
        visible: VisibleLedger,
        read_model: ReadModel,
        hub: Hub,
        clock: Clock,
        new_ids: IdSource,
        quotas: QuotaKeeper,
        page_tokens: PageTokens,
        keeper: StreamKeeper,
        approvals: ApprovalOpening,
    ) -> None:
        ids = DecisionIds()
        self.recorder = Recorder(ids.source, max_records=settings.decision_queue)
        self.decisions = Decisions(read_model, clock, recorder=self.recorder, ids=ids)
        self.history = DecisionHistory(log)
        self.revisions = Revisions(ledger, read_model)
        self._shadow = Shadow(read_model)
        self.recorder.subscribe(self._shadow.listen, wanted=self._shadow.wants)
        self._comparison = ShadowComparison(self._shadow, clock)
        self._flusher = DecisionFlusher(
            self.recorder,
            log,
            read_model,
            clock,
            keep_ms=round(settings.decision_log_hours * 3_600_000),
            max_bytes=settings.decision_log_mib << 20,
        )
        recorded = RecordedDecisions(log, clock)
        self._decision_service = DecisionService(
            DecisionUseCases(
                recorded=recorded,
                replay=DecisionReplay(recorded, read_model, self.revisions),
                reports=DecisionReports(log, read_model, clock),
                read_model=read_model,
            ),
            page_tokens,
        )
        self._policy_service = PolicyService(
            Policies(visible, read_model, max_policies=settings.max_policies, quotas=quotas),
            self.decisions,
            PolicyWatches(read_model, hub, clock),
            PolicySettingsKeeper(visible, read_model),
            self._sets(settings, visible, read_model, clock, new_ids, quotas),
            approvals,
            page_tokens,
            keeper,
        )

    def _sets(
        self,
        settings: Settings,
        visible: VisibleLedger,
        read_model: ReadModel,
        clock: Clock,
        new_ids: IdSource,
        quotas: QuotaKeeper,
    ) -> PolicySetUseCases:
        runs = TestRuns(clock)
        simulations = Simulations(self.history, clock)
        stages = Stages(visible, clock, new_ids)
        return PolicySetUseCases(
            revisions=self.revisions,
            candidates=Candidates(
                visible, read_model, new_ids, runs, max_policies=settings.max_policies
            ),
            tests=LiveTests(visible, read_model, runs),
            simulations=simulations,
            activations=PolicyActivations(
                visible,
                read_model,
                stages=stages,
                revisions=self.revisions,
                runs=runs,
                simulations=simulations,
                max_policies=settings.max_policies,
                quotas=quotas,
            ),
            stages=stages,
            reports=StageReports(read_model, self._shadow),
        )

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        flusher = self._flusher
        return flusher.run, flusher.run_synchronous, flusher.run_trimming, self._comparison.run

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the services about policies and decisions."""
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self._policy_service, server)
        decision_service_pb2_grpc.add_DecisionServiceServicer_to_server(
            self._decision_service, server
        )


def policy_defaults(settings: Settings) -> PolicyDefaults:
    """Return what holds for policies where a namespace sets nothing."""
    return PolicyDefaults(
        effect=Effect(settings.policy_default), on_missing=OnMissing(settings.policy_on_missing)
    )
