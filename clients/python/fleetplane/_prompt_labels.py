"""Labels of prompts as the client offers them: moved, removed, given to agents, gated."""

from collections.abc import AsyncIterator, Sequence

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane.v1 import prompt_service_pb2 as pb


class PromptLabelCalls(Connected):
    """Which version of a prompt is in use, and for whom; for operators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `NotFound` (PROMPT_NOT_FOUND, LABEL_NOT_FOUND) for what is not there.
    """

    async def move_label(
        self,
        prompt: str,
        version: int,
        *,
        reason: str,
        label: str = "",
        expected_revision: int | None = None,
        override_reason: str = "",
        min_revision: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.MoveLabelResponse:
        """Move a label to a version, or make it.

        Args:
            prompt: which prompt.
            version: where to.
            reason: why.
            label: which label; empty: `production`.
            expected_revision: refuse if the label is not at this revision; 0: it must not exist.
            override_reason: move it although its gate does not pass, and why. The audit shows it.
            min_revision: judge by what was recorded up to that revision, at least.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            FailedPrecondition: its gate does not pass (GATE_BLOCKED, `metadata["verdict"]`).
            RevisionConflict: somebody else has moved it.
        """
        request = pb.MoveLabelRequest(
            namespace=self.namespace,
            prompt=prompt,
            label=label,
            version=version,
            expected_revision=expected_revision,
            reason=reason,
            override_reason=override_reason,
            min_revision=min_revision,
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        return await connection.call(connection.prompts.MoveLabel, request, timeout)

    async def remove_label(
        self,
        prompt: str,
        label: str,
        *,
        reason: str,
        expected_revision: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Remove a label: whoever used its version must not use it any more.

        Returns:
            The revision of the removal.

        Raises:
            RevisionConflict: somebody else has moved it.
        """
        request = pb.RemoveLabelRequest(
            namespace=self.namespace,
            prompt=prompt,
            label=label,
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        return (await connection.call(connection.prompts.RemoveLabel, request, timeout)).revision

    async def label_history(
        self,
        prompt: str,
        *,
        label: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.LabelMove]:
        """Iterate over the moves of a label (empty: of all), newest first, page by page."""
        connection = self.connection
        token = ""
        while True:
            request = pb.GetLabelHistoryRequest(
                namespace=self.namespace,
                prompt=prompt,
                label=label,
                page_size=page_size,
                page_token=token,
            )
            page = await connection.call(connection.prompts.GetLabelHistory, request, timeout)
            for move in page.moves:
                yield move
            token = page.next_page_token
            if not token:
                return

    async def set_agent_label(
        self,
        prompt: str,
        agent_name: str,
        label: str,
        *,
        reason: str,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Prompt:
        """Give an agent name another label than `production`."""
        request = pb.SetAgentLabelRequest(
            namespace=self.namespace,
            prompt=prompt,
            agent_name=agent_name,
            label=label,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        return (await connection.call(connection.prompts.SetAgentLabel, request, timeout)).prompt

    async def unset_agent_label(
        self, prompt: str, agent_name: str, *, reason: str, timeout: float | None = None
    ) -> pb.Prompt:
        """Take the label of an agent name away; idempotent."""
        request = pb.UnsetAgentLabelRequest(
            namespace=self.namespace, prompt=prompt, agent_name=agent_name, reason=reason
        )
        connection = self.connection
        return (await connection.call(connection.prompts.UnsetAgentLabel, request, timeout)).prompt

    async def set_label_gate(
        self,
        prompt: str,
        *,
        dataset_sha256: str,
        scorer: str,
        reason: str,
        label: str = "",
        scorer_version: str = "",
        min_items: int = 0,
        max_drop: float | None = None,
        pass_score: float | None = None,
        max_cost_growth: float | None = None,
        max_latency_growth: float | None = None,
        critical_items: Sequence[str] = (),
        expected_revision: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Prompt:
        """Put a label under a gate, or change its gate. None and 0: the daemon's default.

        Args:
            prompt: which prompt.
            dataset_sha256: evaluations have to be of this data set.
            scorer: and of this scorer.
            reason: why.
            label: which label; empty: `production`.
            scorer_version: at this version; empty: any, the same on both sides.
            min_items: fewest items, 50 by default.
            max_drop: loss of the mean score that is accepted, 0.02 by default.
            pass_score: score from which a trial has passed, where nobody says; 0.5 by default.
            max_cost_growth: growth of costs that is accepted, 0.2 by default.
            max_latency_growth: the same for the 95th percentile of latency.
            critical_items: items that must not go from pass to fail.
            expected_revision: refuse if the prompt is not at this revision.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
        """
        gate = pb.LabelGate(
            label=label,
            dataset_sha256=dataset_sha256,
            scorer=scorer,
            scorer_version=scorer_version,
            min_items=min_items,
            max_drop=max_drop,
            pass_score=pass_score,
            max_cost_growth=max_cost_growth,
            max_latency_growth=max_latency_growth,
            critical_items=critical_items,
        )
        request = pb.SetLabelGateRequest(
            namespace=self.namespace,
            prompt=prompt,
            gate=gate,
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        connection = self.connection
        return (await connection.call(connection.prompts.SetLabelGate, request, timeout)).prompt

    async def remove_label_gate(
        self, prompt: str, *, reason: str, label: str = "", timeout: float | None = None
    ) -> pb.Prompt:
        """Take the gate of a label (empty: `production`) away; idempotent."""
        request = pb.SetLabelGateRequest(
            namespace=self.namespace,
            prompt=prompt,
            gate=pb.LabelGate(label=label),
            remove=True,
            reason=reason,
            request_id=new_request_id(),
        )
        connection = self.connection
        return (await connection.call(connection.prompts.SetLabelGate, request, timeout)).prompt
