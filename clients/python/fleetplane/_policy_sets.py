"""Sets of policies as the client changes them: candidates, replays, stages, rollbacks."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._policies import PolicyFields, policy_message
from fleetplane._policy_stages import (
    PolicyStageKind,
    PolicyTest,
    moment_of,
)
from fleetplane._values import one_of
from fleetplane.v1 import policy_service_pb2 as pb

Policies = Mapping[str, PolicyFields]
"""Policies by their ids; fields as in `create_policy`, enabled unless they say otherwise."""


class PolicySetCalls(Connected):
    """Policies changed as a set, tried before they decide, and taken back.

    `timeout` is the deadline of a call in seconds over all attempts (None: the channel's default).
    `expected_revision` refuses a call when the live policies have changed; None does not check.
    """

    async def create_policy_candidate(
        self,
        policies: Policies | None = None,
        *,
        whole: bool = False,
        delete: str | Sequence[str] = (),
        tests: Sequence[PolicyTest] | None = None,
        description: str = "",
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.CreatePolicyCandidateResponse:
        """Write changes that decide nothing yet; the answer has warnings and failing tests.

        Args:
            policies: policies to add or replace; with `whole`, all that shall be there.
            whole: remove live policies that are not among `policies`.
            delete: policies to remove; not with `whole`.
            tests: tests that come with it; None: those of the live policies stay.
            description: for people.
            expected_revision: see the class.
            reason: why, for the audit.
            dry_run: check, write nothing.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            InvalidArgument: something is wrong, or it changes nothing.
            RevisionConflict: the live policies have changed.
        """
        connection = self.connection
        request = pb.CreatePolicyCandidateRequest(
            namespace=self.namespace,
            description=description,
            policies=_messages(policies),
            whole=whole,
            delete=one_of(delete),
            tests=None if tests is None else _tests(tests),
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.CreatePolicyCandidate, request, timeout)

    async def get_policy_candidate(
        self, candidate_id: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetPolicyCandidateResponse:
        """Return a candidate, what it would change now, warnings and failing tests.

        Raises:
            NotFound: there is none.
        """
        connection = self.connection
        request = pb.GetPolicyCandidateRequest(
            namespace=self.namespace, candidate_id=candidate_id, min_revision=min_revision
        )
        return await connection.call(connection.policies.GetPolicyCandidate, request, timeout)

    async def list_policy_candidates(
        self, *, min_revision: int = 0, timeout: float | None = None
    ) -> list[pb.PolicyCandidate]:
        """Return all candidates, newest first, without their policies."""
        connection = self.connection
        request = pb.ListPolicyCandidatesRequest(
            namespace=self.namespace, min_revision=min_revision
        )
        response = await connection.call(connection.policies.ListPolicyCandidates, request, timeout)
        return list(response.candidates)

    async def delete_policy_candidate(
        self,
        candidate_id: str,
        *,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Remove a candidate that is not staged; return the revision of that.

        Raises:
            NotFound: there is none.
            FailedPrecondition: it is staged.
        """
        connection = self.connection
        request = pb.DeletePolicyCandidateRequest(
            namespace=self.namespace,
            candidate_id=candidate_id,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        response = await connection.call(
            connection.policies.DeletePolicyCandidate, request, timeout
        )
        return response.revision

    async def simulate_policies(
        self,
        candidate_id: str = "",
        *,
        policies: Policies | None = None,
        whole: bool = False,
        delete: str | Sequence[str] = (),
        limit: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        timeout: float | None = None,
    ) -> pb.SimulatePoliciesResponse:
        """Replay recorded decisions under a candidate, or under policies stated here.

        Args:
            candidate_id: which candidate; empty: the policies stated here.
            policies: policies to add or replace; with `whole`, all policies.
            whole: leave out live policies that are not among `policies`.
            delete: policies to leave out; not with `whole`.
            limit: how many decisions, the newest first. 0: 10,000.
            since: only decisions made then or later.
            until: only decisions made before then.
            timeout: see the class.

        Raises:
            NotFound: there is no such candidate.
            InvalidArgument: something is wrong.
        """
        connection = self.connection
        request = pb.SimulatePoliciesRequest(
            namespace=self.namespace,
            candidate_id=candidate_id,
            policies=_messages(policies),
            whole=whole,
            delete=one_of(delete),
            limit=limit,
        )
        if since is not None:
            getattr(request, "from").CopyFrom(moment_of(since))  # a keyword here, not on the wire
        if until is not None:
            request.to.CopyFrom(moment_of(until))
        return await connection.call(connection.policies.SimulatePolicies, request, timeout)

    async def activate_policies(
        self,
        candidate_id: str,
        stage: PolicyStageKind = PolicyStageKind.FULL,
        *,
        percent: int = 0,
        expected_revision: int | None = None,
        max_flips: int | None = None,
        limit: int = 0,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.ActivatePolicyRevisionResponse:
        """Make a candidate decide: for all, for a share of the agents, or in the shadow.

        Args:
            candidate_id: which candidate.
            stage: how far.
            percent: of PERCENT, 1-99; a higher number keeps the agents of a lower one.
            expected_revision: see the class.
            max_flips: replay first, and refuse if more decisions would come out otherwise; None:
                no replay.
            limit: with `max_flips`, how many decisions to replay. 0: 10,000.
            reason: why, for the audit.
            dry_run: run tests and replay, write nothing.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            NotFound: there is no such candidate.
            RevisionConflict: the live policies have changed.
            FailedPrecondition: tests fail, too many decisions flip, another candidate is staged.
        """
        connection = self.connection
        request = pb.ActivatePolicyRevisionRequest(
            namespace=self.namespace,
            candidate_id=candidate_id,
            stage=pb.PolicyStageKind.ValueType(stage),
            percent=percent,
            expected_revision=expected_revision,
            max_flips=max_flips,
            limit=limit,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.ActivatePolicyRevision, request, timeout)

    async def get_policy_stage(
        self, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetPolicyStageResponse:
        """Return the stage, if there is one, and what a candidate in the shadow would decide."""
        connection = self.connection
        request = pb.GetPolicyStageRequest(namespace=self.namespace, min_revision=min_revision)
        return await connection.call(connection.policies.GetPolicyStage, request, timeout)

    async def stop_policy_stage(
        self, *, reason: str = "", request_id: str = "", timeout: float | None = None
    ) -> pb.PolicyStage | None:
        """End the stage: the live policies decide for everybody. None: there was no stage."""
        connection = self.connection
        request = pb.StopPolicyStageRequest(
            namespace=self.namespace, reason=reason, request_id=request_id or new_request_id()
        )
        response = await connection.call(connection.policies.StopPolicyStage, request, timeout)
        return response.stage if response.HasField("stage") else None

    async def rollback_policies(
        self,
        to_revision: int,
        *,
        reason: str,
        expected_revision: int | None = None,
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.RollbackPolicyRevisionResponse:
        """Restore the policies and tests of an older revision as a new one; a stage ends with it.

        Raises:
            NotFound: the history does not hold that revision.
            RevisionConflict: the live policies have changed.
            FailedPrecondition: tests of that revision fail.
        """
        connection = self.connection
        request = pb.RollbackPolicyRevisionRequest(
            namespace=self.namespace,
            to_revision=to_revision,
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.RollbackPolicyRevision, request, timeout)

    async def list_policy_revisions(
        self, *, page_size: int = 0, min_revision: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.PolicyRevision]:
        """Iterate over the changes of the policies, newest first; `timeout` is that of one page."""
        connection, token = self.connection, ""
        while True:
            request = pb.ListPolicyRevisionsRequest(
                namespace=self.namespace,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
            )
            page = await connection.call(connection.policies.ListPolicyRevisions, request, timeout)
            for revision in page.revisions:
                yield revision
            token = page.next_page_token
            if not token:
                return

    async def get_policy_revision(
        self, revision: int = 0, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetPolicyRevisionResponse:
        """Return all policies as they were at a revision; 0: the live ones.

        Raises:
            NotFound: the history does not hold it.
        """
        connection = self.connection
        request = pb.GetPolicyRevisionRequest(
            namespace=self.namespace, revision=revision, min_revision=min_revision
        )
        return await connection.call(connection.policies.GetPolicyRevision, request, timeout)

    async def diff_policy_revisions(
        self, from_revision: int, to_revision: int = 0, *, timeout: float | None = None
    ) -> pb.DiffPolicyRevisionsResponse:
        """Compare two revisions; 0: the live one.

        Raises:
            NotFound: the history does not hold one of them.
        """
        connection = self.connection
        request = pb.DiffPolicyRevisionsRequest(
            namespace=self.namespace, from_revision=from_revision, to_revision=to_revision
        )
        return await connection.call(connection.policies.DiffPolicyRevisions, request, timeout)


def _messages(policies: Policies | None) -> list[pb.Policy]:
    return [
        policy_message(policy_id, {"enabled": True, **fields})
        for policy_id, fields in (policies or {}).items()
    ]


def _tests(tests: Sequence[PolicyTest]) -> pb.PolicyTestList:
    return pb.PolicyTestList(tests=[test.to_proto() for test in tests])
