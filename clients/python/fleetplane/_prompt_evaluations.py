"""Evaluations of prompts as the client offers them: recorded, listed, compared."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane.v1 import prompt_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    """How one item of a data set went."""

    item_id: str
    """Which item."""
    scores: Sequence[float]
    """Of every trial, 0-1; as many for every item, at most 20."""
    passed: Sequence[bool] = ()
    """Whether each trial passed; empty: by its score."""
    critical: bool = False
    """It must not go from pass to fail."""
    cost: float = 0.0
    """What its trials cost together."""
    latency_ms: float = 0.0
    """Mean latency of its trials in milliseconds."""

    def to_message(self) -> pb.ScoredItem:
        """Return the item as it travels."""
        return pb.ScoredItem(
            item_id=self.item_id,
            scores=self.scores,
            passed=self.passed,
            critical=self.critical,
            cost=self.cost,
            latency_ms=self.latency_ms,
        )


class PromptEvaluationCalls(Connected):
    """How versions of prompts did on data sets; for pipelines.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `NotFound` for a prompt or version that is not there.
    """

    async def record_evaluation(
        self,
        prompt: str,
        version: int,
        items: Iterable[ScoredItem],
        *,
        dataset_sha256: str,
        scorer: str,
        scorer_version: str = "",
        model: str = "",
        seed: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.PromptEvaluation:
        """Record how a version did, item by item.

        Args:
            prompt: which prompt.
            version: which version.
            items: 1-10,000 items.
            dataset_sha256: on which data set: `sha256:` and 64 hexadecimal digits.
            scorer: what scored it.
            scorer_version: at which version.
            model: with which model.
            seed: of the run.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        request = pb.RecordEvaluationRequest(
            namespace=self.namespace,
            prompt=prompt,
            version=version,
            dataset_sha256=dataset_sha256,
            scorer=scorer,
            scorer_version=scorer_version,
            model=model,
            seed=seed,
            items=[one.to_message() for one in items],
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        response = await connection.call(connection.prompts.RecordEvaluation, request, timeout)
        return response.evaluation

    async def list_evaluations(
        self,
        prompt: str,
        *,
        version: int = 0,
        dataset_sha256: str = "",
        page_size: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.PromptEvaluation]:
        """Iterate over evaluations, newest first, page by page."""
        connection = self.connection
        token = ""
        while True:
            request = pb.ListEvaluationsRequest(
                namespace=self.namespace,
                prompt=prompt,
                version=version,
                dataset_sha256=dataset_sha256,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
            )
            page = await connection.call(connection.prompts.ListEvaluations, request, timeout)
            for evaluation in page.evaluations:
                yield evaluation
            token = page.next_page_token
            if not token:
                return

    async def compare_prompt_versions(
        self,
        prompt: str,
        candidate_version: int = 0,
        *,
        baseline_version: int = 0,
        baseline_label: str = "",
        candidate_evaluation_id: str = "",
        baseline_evaluation_id: str = "",
        dataset_sha256: str = "",
        gate_label: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.PromptComparison:
        """Compare two evaluated versions on the same data set.

        Args:
            prompt: which prompt.
            candidate_version: version that is judged; its newest evaluation counts.
            baseline_version: version that it is compared with.
            baseline_label: or the label that is at it.
            candidate_evaluation_id: exactly this evaluation instead.
            baseline_evaluation_id: exactly this evaluation instead.
            dataset_sha256: on this data set; empty: that of the candidate's newest evaluation.
            gate_label: by the rules of the gate of this label; empty: by the defaults.
            min_revision: wait until the replica that answers has seen that revision.
            timeout: see the class.

        Raises:
            NotFound: a version was not evaluated so (EVALUATION_NOT_FOUND).
            FailedPrecondition: the evaluations are of other things (NOT_COMPARABLE).
        """
        request = pb.ComparePromptVersionsRequest(
            namespace=self.namespace,
            prompt=prompt,
            candidate_version=candidate_version,
            baseline_version=baseline_version,
            baseline_label=baseline_label,
            candidate_evaluation_id=candidate_evaluation_id,
            baseline_evaluation_id=baseline_evaluation_id,
            dataset_sha256=dataset_sha256,
            gate_label=gate_label,
            min_revision=min_revision,
        )
        connection = self.connection
        response = await connection.call(connection.prompts.ComparePromptVersions, request, timeout)
        return response.comparison
