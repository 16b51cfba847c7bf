"""How changes to sets of policies are refused.

Part of the tree in `controlplane/domain/errors.py`.
"""

from collections.abc import Mapping

from controlplane.domain.errors import FailedPrecondition, NotFound

NAMED_FAILURES = 20
"""Failing tests that a refusal spells out; the rest is counted."""


class PolicyCandidateNotFound(NotFound):
    """No such candidate."""

    reason = "POLICY_CANDIDATE_NOT_FOUND"

    def __init__(self, candidate_id: str) -> None:
        super().__init__(
            f"no candidate {candidate_id!r} of the policies", {"candidate_id": candidate_id}
        )


class PolicyTestsFailed(FailedPrecondition):
    """Tests stored with the policies fail."""

    reason = "POLICY_TESTS_FAILED"

    def __init__(self, failed: Mapping[str, str]) -> None:
        """Say which tests fail and why, by name."""
        shown = dict(list(failed.items())[:NAMED_FAILURES])
        named = "; ".join(f"{name}: {why}" for name, why in shown.items())
        super().__init__(
            f"{len(failed)} tests of the policies fail: {named}",
            {"failed": str(len(failed))} | {f"test.{name}": why for name, why in shown.items()},
        )


class TooManyFlips(FailedPrecondition):
    """More recorded decisions would come out otherwise than allowed."""

    reason = "TOO_MANY_FLIPS"

    def __init__(self, flips: int, max_flips: int, replayed: int) -> None:
        super().__init__(
            f"{flips} of {replayed} replayed decisions would come out otherwise,"
            f" and {max_flips} may",
            {"flips": str(flips), "max_flips": str(max_flips), "replayed": str(replayed)},
        )
