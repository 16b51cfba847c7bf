"""Experiments as the client offers them: compare variants of a prompt or of configuration."""

from collections.abc import AsyncIterator, Iterable, Sequence

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._experiment_side import LocalExperiments
from fleetplane._experiment_spec import (
    ExperimentSpec,
    ExperimentState,
    Variant,
    subject_message,
)
from fleetplane._experiment_watch import ExperimentWatch
from fleetplane.v1 import experiment_service_pb2 as pb


class ExperimentCalls(Connected):
    """Experiments: planned and ended by operators, dealt and recorded by agents.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers: `NotFound`
    (EXPERIMENT_NOT_FOUND) for one that does not exist, `FailedPrecondition` (INVALID_TRANSITION)
    for a move that its state does not have.
    """

    def experiments(self, agent_name: str = "") -> LocalExperiments:
        """Follow what is dealt to an agent, to deal variants in this process and record their use.

        async with client.experiments("writer") as experiments:
            dealt = experiments.assign(config_path="temperature", unit=session_id)
            ...
            experiments.expose(dealt)
            experiments.outcome(dealt, "solved", True)
        """
        return LocalExperiments(self.connection, self.namespace, agent_name)

    async def create_experiment(
        self, key: str, spec: ExperimentSpec, *, request_id: str = "", timeout: float | None = None
    ) -> pb.Experiment:
        """Plan an experiment; nothing is dealt until it is started.

        Raises:
            InvalidArgument: it contradicts itself, or a variant does not exist; see `violations`.
            AlreadyExists: the key is taken (EXPERIMENT_EXISTS).
        """
        connection = self.connection
        request = pb.CreateExperimentRequest(
            namespace=self.namespace,
            key=key,
            spec=spec.to_message(),
            request_id=request_id or new_request_id(),
        )
        answer = await connection.call(connection.experiments.CreateExperiment, request, timeout)
        return answer.experiment

    async def get_experiment(
        self, key: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.Experiment:
        """Return an experiment."""
        connection = self.connection
        request = pb.GetExperimentRequest(
            namespace=self.namespace, key=key, min_revision=min_revision
        )
        answer = await connection.call(connection.experiments.GetExperiment, request, timeout)
        return answer.experiment

    async def list_experiments_page(
        self,
        *,
        states: Iterable[ExperimentState] = (),
        prompt: str = "",
        config_path: str = "",
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListExperimentsResponse:
        """Return one page of experiments, by key."""
        connection = self.connection
        request = pb.ListExperimentsRequest(
            namespace=self.namespace,
            states=[pb.ExperimentState.ValueType(state) for state in states],
            prompt=prompt,
            config_path=config_path,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.experiments.ListExperiments, request, timeout)

    async def list_experiments(
        self,
        *,
        states: Iterable[ExperimentState] = (),
        prompt: str = "",
        config_path: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Experiment]:
        """Iterate over experiments by key, page by page; `states` empty: in any."""
        wanted, token = tuple(states), ""
        while True:
            page = await self.list_experiments_page(
                states=wanted,
                prompt=prompt,
                config_path=config_path,
                page_token=token,
                timeout=timeout,
            )
            for one in page.experiments:
                yield one
            token = page.next_page_token
            if not token:
                return

    async def start_experiment(
        self, key: str, *, reason: str = "", request_id: str = "", timeout: float | None = None
    ) -> pb.Experiment:
        """Begin the first phase.

        Raises:
            FailedPrecondition: another one runs on its subject (EXPERIMENT_ACTIVE).
        """
        connection = self.connection
        request = pb.StartExperimentRequest(
            namespace=self.namespace,
            key=key,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        answer = await connection.call(connection.experiments.StartExperiment, request, timeout)
        return answer.experiment

    async def set_coverage(
        self, key: str, coverage_bp: int, *, reason: str = "", timeout: float | None = None
    ) -> pb.Experiment:
        """Cover more units, in basis points; no unit changes or loses its variant. Idempotent.

        Raises:
            InvalidArgument: it is less than it has.
        """
        connection = self.connection
        request = pb.SetCoverageRequest(
            namespace=self.namespace, key=key, coverage_bp=coverage_bp, reason=reason
        )
        answer = await connection.call(connection.experiments.SetCoverage, request, timeout)
        return answer.experiment

    async def start_new_phase(
        self,
        key: str,
        *,
        variants: Sequence[Variant] = (),
        coverage_bp: int | None = None,
        exclude_exposed: bool = False,
        expected_phase: int = 0,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Experiment:
        """Deal anew, and count from nothing.

        Args:
            key: which experiment.
            variants: those of the phase; empty: those of the present one.
            coverage_bp: share of the units; None: as now.
            exclude_exposed: units that an earlier phase exposed count for nothing.
            expected_phase: the phase that is to end; 0: whichever it is.
            reason: why.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            RevisionConflict: it is in another phase.
        """
        connection = self.connection
        request = pb.StartNewPhaseRequest(
            namespace=self.namespace,
            key=key,
            variants=[one.to_message(of_prompt=bool(one.prompt_version)) for one in variants],
            coverage_bp=coverage_bp,
            exclude_exposed=exclude_exposed,
            expected_phase=expected_phase,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        answer = await connection.call(connection.experiments.StartNewPhase, request, timeout)
        return answer.experiment

    async def stop_experiment(
        self, key: str, *, promote: str = "", reason: str = "", timeout: float | None = None
    ) -> pb.Experiment:
        """End an experiment; the variant `promote` becomes what everybody gets. Idempotent.

        Raises:
            FleetError: the variant may not be promoted; the experiment goes on.
        """
        connection = self.connection
        request = pb.StopExperimentRequest(
            namespace=self.namespace, key=key, promote=promote, reason=reason
        )
        answer = await connection.call(connection.experiments.StopExperiment, request, timeout)
        return answer.experiment

    async def delete_experiment(
        self, key: str, *, reason: str = "", timeout: float | None = None
    ) -> bool:
        """Remove an experiment that does not run, with all its records; False: there is none."""
        connection = self.connection
        request = pb.DeleteExperimentRequest(namespace=self.namespace, key=key, reason=reason)
        answer = await connection.call(connection.experiments.DeleteExperiment, request, timeout)
        return answer.deleted

    async def assign_variant(
        self,
        key: str = "",
        *,
        prompt: str = "",
        config_path: str = "",
        agent_name: str = "",
        unit: str = "",
        timeout: float | None = None,
    ) -> pb.VariantAssignment:
        """Return which variant a unit gets, and why; nothing is recorded.

        Args:
            key: which experiment; or else the running one of a subject.
            prompt: the running experiment on this prompt.
            config_path: the running experiment on this path of configuration.
            agent_name: who asks.
            unit: the session. Empty: the control variant.
            timeout: see the class.
        """
        connection = self.connection
        request = pb.AssignVariantRequest(
            namespace=self.namespace, key=key, agent_name=agent_name, unit=unit
        )
        if prompt or config_path:
            request.subject.CopyFrom(subject_message(prompt, config_path))
        answer = await connection.call(connection.experiments.AssignVariant, request, timeout)
        return answer.assignment

    def watch_experiments(self, agent_name: str = "") -> ExperimentWatch:
        """Follow what is dealt to an agent (empty: to all): all of it, after every change."""
        return ExperimentWatch(self.connection, self.namespace, agent_name)

    async def record_exposures(
        self,
        key: str,
        exposures: Sequence[pb.Exposure],
        *,
        agent_name: str = "",
        timeout: float | None = None,
    ) -> Sequence[pb.RecordingResult]:
        """Record up to 500 exposures of one experiment; return what became of each."""
        connection = self.connection
        request = pb.BatchRecordExposuresRequest(
            namespace=self.namespace, key=key, agent_name=agent_name, exposures=exposures
        )
        method = connection.experiments.BatchRecordExposures
        return (await connection.call(method, request, timeout)).results

    async def record_outcomes(
        self,
        key: str,
        outcomes: Sequence[pb.Outcome],
        *,
        agent_name: str = "",
        timeout: float | None = None,
    ) -> Sequence[pb.RecordingResult]:
        """Record up to 500 outcomes of one experiment; return what became of each."""
        connection = self.connection
        request = pb.BatchRecordOutcomesRequest(
            namespace=self.namespace, key=key, agent_name=agent_name, outcomes=outcomes
        )
        method = connection.experiments.BatchRecordOutcomes
        return (await connection.call(method, request, timeout)).results

    async def analyze_experiment(
        self, key: str, *, phase: int = 0, timeout: float | None = None
    ) -> pb.ExperimentAnalysis:
        """Return what the outcomes of a phase say; 0: of the present or last one."""
        connection = self.connection
        request = pb.AnalyzeExperimentRequest(namespace=self.namespace, key=key, phase=phase)
        answer = await connection.call(connection.experiments.AnalyzeExperiment, request, timeout)
        return answer.analysis
