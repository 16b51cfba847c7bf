"""How changes to sets of policies are refused.

Part of the tree in `controlplane/domain/errors.py`.
"""

from collections.abc import Mapping

from controlplane.domain.errors import FailedPrecondition, NotFound
from controlplane.domain.policy_sets.replay import ReplayReport

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
    """More recorded decisions would come out otherwise than allowed, or nobody can tell."""

    reason = "TOO_MANY_FLIPS"

    def __init__(self, report: ReplayReport, max_flips: int) -> None:
        """Say what the replay found of what it could look at."""
        flips, undecidable = round(report.caused), round(report.undecidable)
        said = f"{flips} decisions would come out otherwise"
        if undecidable:
            said += f", {undecidable} more hang on masked values"
        if not report.replayed:
            said += f", none of {report.made} could be replayed"
        super().__init__(
            f"{said}, and {max_flips} may",
            {
                "flips": str(flips),
                "undecidable": str(undecidable),
                "max_flips": str(max_flips),
                "replayed": str(report.replayed),
            },
        )
