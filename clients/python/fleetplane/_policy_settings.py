"""What a namespace sets for its policies as a whole, and their tests, as the client does it."""

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._enums import OnMissing, PolicyAction
from fleetplane._policy_stages import DecisionLogRule, PolicyTest
from fleetplane._values import one_of
from fleetplane.v1 import policy_service_pb2 as pb


class PolicySettingsCalls(Connected):
    """What a namespace sets for its policies as a whole, and their tests."""

    async def get_policy_settings(
        self, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.PolicySettings:
        """Return the settings, with the daemon's where the namespace sets nothing."""
        connection = self.connection
        request = pb.GetPolicySettingsRequest(namespace=self.namespace, min_revision=min_revision)
        response = await connection.call(connection.policies.GetPolicySettings, request, timeout)
        return response.settings

    async def update_policy_settings(
        self,
        *,
        default_action: PolicyAction | None = None,
        on_missing: OnMissing | None = None,
        log_rules: Sequence[DecisionLogRule] | None = None,
        masked_paths: str | Sequence[str] | None = None,
        ceilings: str | Sequence[str] | None = None,
        max_pending_per_agent: int | None = None,
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.PolicySettings:
        """Change what is given; None leaves it as it is. Lists change as a whole.

        Args:
            default_action: the answer when no policy matches, ALLOW or DENY; UNSPECIFIED: as the
                daemon was told.
            on_missing: what an absent attribute means to policies that do not say; UNSPECIFIED: as
                the daemon was told.
            log_rules: how decisions are recorded.
            masked_paths: paths of the context that are never recorded.
            ceilings: attributes that may be lower at use than when they were approved.
            max_pending_per_agent: approvals that one agent may have waiting.
            expected_revision: refuse if the settings are not at this revision; 0: never changed.
            reason: why, for the audit.
            dry_run: check, write nothing.
            request_id: makes a retry safe. Empty: a new one.
            timeout: deadline in seconds.

        Raises:
            InvalidArgument: something is wrong.
            RevisionConflict: somebody else changed them.
        """
        settings, paths = pb.PolicySettings(), list[str]()
        if default_action is not None:
            settings.default_action = pb.PolicyAction.ValueType(default_action)
            paths.append("default_action")
        if on_missing is not None:
            settings.on_missing = pb.OnMissing.ValueType(on_missing)
            paths.append("on_missing")
        if log_rules is not None:
            settings.decision_log.rules.extend(rule.to_proto() for rule in log_rules)
            paths.append("decision_log.rules")
        if masked_paths is not None:
            settings.decision_log.masked_paths.extend(one_of(masked_paths))
            paths.append("decision_log.masked_paths")
        if ceilings is not None:
            settings.approval.ceilings.extend(one_of(ceilings))
            paths.append("approval.ceilings")
        if max_pending_per_agent is not None:
            settings.approval.max_pending_per_agent = max_pending_per_agent
            paths.append("approval.max_pending_per_agent")
        if not paths:
            raise ValueError("no setting to change was given")
        connection = self.connection
        request = pb.UpdatePolicySettingsRequest(
            namespace=self.namespace,
            settings=settings,
            update_mask=FieldMask(paths=paths),
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        response = await connection.call(connection.policies.UpdatePolicySettings, request, timeout)
        return response.settings

    async def get_policy_tests(
        self, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.GetPolicyTestsResponse:
        """Return the tests of the live policies, and those that fail."""
        connection = self.connection
        request = pb.GetPolicyTestsRequest(namespace=self.namespace, min_revision=min_revision)
        return await connection.call(connection.policies.GetPolicyTests, request, timeout)

    async def replace_policy_tests(
        self,
        tests: Sequence[PolicyTest],
        *,
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.ReplacePolicyTestsResponse:
        """Set the tests of the live policies as a whole; the answer says which ones fail.

        Raises:
            InvalidArgument: something is wrong.
            RevisionConflict: the tests are not at the expected revision.
        """
        connection = self.connection
        request = pb.ReplacePolicyTestsRequest(
            namespace=self.namespace,
            tests=[test.to_proto() for test in tests],
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.ReplacePolicyTests, request, timeout)
