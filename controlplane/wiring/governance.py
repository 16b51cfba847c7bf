"""Builds what governs agents: recorded decisions, approvals, prompts, experiments, the audit.

Constructor calls only, like `replica`, which calls it.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.pagination import PageTokens
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper
from controlplane.api.v1.audit_service import AuditService, AuditUseCases
from controlplane.api.v1.experiment_service import ExperimentService, ExperimentUseCases
from controlplane.api.v1.prompt_service import PromptService
from controlplane.domain.audit.chain import Keys
from controlplane.services.audit.events import AuditEvents
from controlplane.services.audit.exporting import AuditExport
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.sealing import AuditSealer
from controlplane.services.audit.verifying import AuditVerifier
from controlplane.services.configs import Configs
from controlplane.services.experiments.analyst import Analyst
from controlplane.services.experiments.experiments import Experiments
from controlplane.services.experiments.prompt_uses import PromptUses
from controlplane.services.experiments.recorder import Recorder
from controlplane.services.experiments.subjects import ProductionLabels, Subjects
from controlplane.services.hub import Hub
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.ports import Clock, IdSource, Ledger
from controlplane.services.prompts.evaluations import Evaluations
from controlplane.services.prompts.labels import PromptLabels
from controlplane.services.prompts.pins import PromptPins
from controlplane.services.prompts.ports import PromptExperiments
from controlplane.services.prompts.prompts import Prompts
from controlplane.services.prompts.resolution import PromptResolution
from controlplane.services.prompts.watch import PromptWatch
from controlplane.services.read_model import ReadModel
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.settings import Settings
from controlplane.tasks.audit_sealer import AuditSealing
from controlplane.tasks.experiment_watcher import ExperimentWatcher
from controlplane.tasks.prompt_pin_sweeper import PromptPinSweeper
from fleetplane.v1 import (
    audit_service_pb2_grpc,
    experiment_service_pb2_grpc,
    prompt_service_pb2_grpc,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all of it stands on."""

    settings: Settings
    ledger: Ledger
    audit_log: AuditLog
    audit_keys: Keys
    visible: VisibleLedger
    read_model: ReadModel
    hub: Hub
    clock: Clock
    ids: IdSource
    quotas: QuotaKeeper
    page_tokens: PageTokens
    keeper: StreamKeeper
    guard: StreamGuard


class GovernanceParts:
    """One replica's share of it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._recorder = Recorder(ground.ledger, ground.clock)
        self._prompt_experiments: PromptExperiments = PromptUses(ground.ledger, self._recorder)
        self._evaluations = Evaluations(
            ground.visible,
            ground.read_model,
            ground.ids,
            kept=ground.settings.prompt_evaluations_kept,
        )
        self._labels = PromptLabels(ground.visible, ground.read_model, self._evaluations)
        self._experiments = self._build_experiments()
        self._analyst = Analyst(ground.visible, ground.read_model, ground.clock, self._experiments)
        self._prompt_pins = PromptPins(
            ground.visible,
            ground.clock,
            life_ms=round(ground.settings.prompt_pin_seconds * 1000),
            limit=ground.settings.max_prompt_pins,
        )
        self._audit_keeper = AuditKeeper(
            ground.audit_log,
            ground.visible,
            ground.clock,
            ground.audit_keys,
            retention_days=ground.settings.audit_retention_days,
        )

    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what runs as long as the replica does."""
        ground = self._ground
        sweeper = PromptPinSweeper(self._prompt_pins, ground.read_model, ground.clock)
        watcher = ExperimentWatcher(self._analyst, ground.read_model, ground.clock)
        return (self._audit_sealing().run, sweeper.run, watcher.run)

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add the services about governance."""
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(self._audit_service(), server)
        prompt_service_pb2_grpc.add_PromptServiceServicer_to_server(self._prompt_service(), server)
        experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server(
            self._experiment_service(), server
        )

    def _build_experiments(self) -> Experiments:
        ground = self._ground
        configs = Configs(ground.visible, ground.read_model, ground.clock, ground.quotas)
        subjects = Subjects(configs, ProductionLabels(self._labels))
        return Experiments(ground.visible, ground.read_model, ground.clock, subjects)

    def _experiment_service(self) -> ExperimentService:
        ground = self._ground
        use_cases = ExperimentUseCases(
            experiments=self._experiments,
            recorder=self._recorder,
            analyst=self._analyst,
            ledger=ground.ledger,
            read_model=ground.read_model,
        )
        return ExperimentService(use_cases, ground.page_tokens, ground.keeper)

    def _prompt_service(self) -> PromptService:
        ground, settings = self._ground, self._ground.settings
        visible, read_model = ground.visible, ground.read_model
        return PromptService(
            Prompts(
                visible,
                read_model,
                max_prompts=settings.max_prompts,
                max_bytes=settings.max_prompt_bytes,
                quotas=ground.quotas,
            ),
            self._labels,
            PromptResolution(read_model, self._prompt_pins, self._prompt_experiments),
            self._evaluations,
            lambda name: PromptWatch(read_model, ground.hub, self._prompt_experiments, name),
            ground.page_tokens,
            ground.keeper,
        )

    def _audit_sealing(self) -> AuditSealing:
        ground = self._ground
        sealer = AuditSealer(ground.audit_log, ground.clock, ground.audit_keys)
        return AuditSealing(sealer, self._audit_keeper, ground.read_model, ground.clock)

    def _audit_service(self) -> AuditService:
        ground, keeper = self._ground, self._audit_keeper
        audit = AuditUseCases(
            events=AuditEvents(ground.audit_log, keeper, ground.hub),
            keeper=keeper,
            verifier=AuditVerifier(ground.audit_log, keeper, ground.audit_keys),
            export=AuditExport(ground.audit_log, keeper),
        )
        return AuditService(audit, ground.page_tokens, ground.keeper)
