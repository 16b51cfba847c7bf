"""The policy set: an immutable, compiled revision of a namespace's policies.

    rules = PolicySet.compile(policies, revision=7)
    decision = rules.evaluate(request)
    rules = rules.with_changes(put=[changed], delete=["old"], revision=8)

Swapping sets is one reference assignment; whoever holds a set sees one revision, also across a
batch.

Decisions are shared: an answer depends only on which policies said what, so each combination is
decided once per set and remembered. Evaluating allocates nothing but the list of policies that said
something.

What happens to a policy that no longer compiles (written by a newer version, or under another
attribute schema) is the caller's choice: `OnError.RAISE` refuses the set, for write paths;
`OnError.QUARANTINE`, for loading what is stored, keeps it with its unreadable parts judged ERROR.
So a broken DENY or REQUIRE_APPROVAL fails closed wherever its readable parts (target, other
conditions) apply, a broken ALLOW never matches, a broken LOG_ONLY is observed as unknown. An
unreadable target counts as "everything". `quarantined` lists them for the operator.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from fleetplane_policy.attributes import DEFAULT_SCHEMA, AttributeSchema
from fleetplane_policy.combining import combine
from fleetplane_policy.compiled import CompiledPolicy, Judged, agent_name
from fleetplane_policy.compiler import ConditionCompiler
from fleetplane_policy.digest import set_digest
from fleetplane_policy.errors import FieldViolation, MalformedInput
from fleetplane_policy.explain import explain, explain_policy
from fleetplane_policy.index import Candidates, Entry, PolicyIndex
from fleetplane_policy.model import (
    Decision,
    Effect,
    ExplainLevel,
    OnMissing,
    Policy,
    PolicyExplanation,
    Request,
)

_DIGESTS_AT_ONCE: Final = 100  # some 2 ms in which nobody else is served

DECISIONS_REMEMBERED: Final = 32_768
"""Distinct combinations of policies with a remembered answer; beyond, remembering starts over."""

JUDGEMENTS_REMEMBERED: Final = 500_000
"""Policies in all remembered combinations together: about 16 MB with their answers."""


class OnError(StrEnum):
    """What compiling does with a policy it cannot read; see the module's text."""

    RAISE = "RAISE"
    QUARANTINE = "QUARANTINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A policy that could not be read completely, and why."""

    policy_id: str
    violations: tuple[FieldViolation, ...]


class PolicySet:
    """One revision of a namespace's policies, ready to decide. Build it with `compile`."""

    __slots__ = (
        "_compiled",
        "_compiler",
        "_decisions",
        "_digest",
        "_index",
        "_size",
        "candidate_id",
        "default_effect",
        "on_missing",
        "quarantined",
        "revision",
        "schema",
    )

    def __init__(
        self,
        compiled: Mapping[str, CompiledPolicy],
        index: PolicyIndex,
        *,
        revision: int,
        default_effect: Effect,
        on_missing: OnMissing,
        schema: AttributeSchema,
        compiler: ConditionCompiler,
        candidate_id: str = "",
    ) -> None:
        self._compiled = compiled
        self._index = index
        self._compiler = compiler
        self.revision = revision
        self.candidate_id = candidate_id
        self.default_effect = default_effect
        self.on_missing = on_missing
        self.schema = schema
        self.quarantined: tuple[Quarantined, ...] = tuple(
            Quarantined(policy_id=c.policy_id, violations=c.violations)
            for c in compiled.values()
            if c.violations
        )
        self._decisions: dict[tuple[Judged, ...], Decision] = {}
        self._size = 0
        self._digest = ""

    @classmethod
    def compile(
        cls,
        policies: Iterable[Policy],
        *,
        revision: int,
        default_effect: Effect = Effect.ALLOW,
        on_missing: OnMissing = OnMissing.NO_MATCH,
        schema: AttributeSchema = DEFAULT_SCHEMA,
        on_error: OnError = OnError.RAISE,
    ) -> "PolicySet":
        """Compile a namespace's policies.

        `on_missing` is what an absent attribute means to the policies that do not say.

        Raises:
            MalformedInput: a policy id twice, a default that is neither ALLOW nor DENY, or (with
                RAISE) a policy that is not valid; with every violation, as `policies[id].field`.
        """
        _refuse_default(default_effect)
        compiler = ConditionCompiler()
        compiled: dict[str, CompiledPolicy] = {}
        for policy in policies:
            if policy.policy_id in compiled:
                raise MalformedInput.of(f"policies[{policy.policy_id}]", "is there twice")
            compiled[policy.policy_id] = CompiledPolicy(policy, schema, compiler, on_missing)
        _refuse_broken(compiled.values(), on_error)
        return cls(
            compiled,
            PolicyIndex.of(compiled.values()),
            revision=revision,
            default_effect=default_effect,
            on_missing=on_missing,
            schema=schema,
            compiler=compiler,
        )

    def with_changes(
        self,
        *,
        put: Iterable[Policy] = (),
        delete: Iterable[str] = (),
        revision: int,
        on_error: OnError = OnError.RAISE,
        compiled_in: "PolicySet | None" = None,
    ) -> "PolicySet":
        """Return the next revision; only the policies in `put` are compiled.

        What `compiled_in`, a set under the same defaults, holds of them is not compiled again.

        Deleting an id that is not there changes nothing. An equal policy is not compiled again.

        Raises:
            MalformedInput: as `compile`, for the policies in `put`.
        """
        compiled = dict(self._compiled)
        removed = [gone for policy_id in delete if (gone := compiled.pop(policy_id, None))]
        added: dict[str, CompiledPolicy] = {}
        for policy in put:
            if policy.policy_id in added:
                raise MalformedInput.of(f"policies[{policy.policy_id}]", "is there twice")
            old = compiled.get(policy.policy_id)
            if old is not None and (old.policy is policy or old.policy == policy):
                continue
            if old is not None:
                removed.append(old)
            added[policy.policy_id] = _known(policy, compiled_in, self.on_missing) or (
                CompiledPolicy(policy, self.schema, self._compiler, self.on_missing)
            )
        _refuse_broken(added.values(), on_error)
        compiled.update(added)
        return PolicySet(
            compiled,
            self._index.with_changes(removed, added.values()),
            revision=revision,
            default_effect=self.default_effect,
            on_missing=self.on_missing,
            schema=self.schema,
            compiler=self._compiler,
            candidate_id=self.candidate_id,
        )

    def with_candidate(
        self,
        candidate_id: str,
        *,
        put: Iterable[Policy],
        delete: Iterable[str],
        on_error: OnError = OnError.QUARANTINE,
        compiled_in: "PolicySet | None" = None,
    ) -> "PolicySet":
        """Return this revision with the changes of a candidate; its decisions name the candidate.

        `compiled_in`: an earlier such set, of which the same policies are taken.

        Raises:
            MalformedInput: as `compile`, for the policies in `put`.
        """
        changed = self.with_changes(
            put=put,
            delete=delete,
            revision=self.revision,
            on_error=on_error,
            compiled_in=compiled_in,
        )
        changed.candidate_id = candidate_id
        return changed

    def with_defaults(
        self, *, default_effect: Effect, on_missing: OnMissing, revision: int
    ) -> "PolicySet":
        """Return the same policies under other defaults; nothing is compiled again.

        Raises:
            MalformedInput: a default that is neither ALLOW nor DENY.
        """
        _refuse_default(default_effect)
        compiled: dict[str, CompiledPolicy] = {}
        removed: list[CompiledPolicy] = []
        added: list[CompiledPolicy] = []
        for policy_id, policy in self._compiled.items():
            compiled[policy_id] = other = policy.under(on_missing)
            if other is not policy:
                removed.append(policy)
                added.append(other)
        return PolicySet(
            compiled,
            self._index.with_changes(removed, added),
            revision=revision,
            default_effect=default_effect,
            on_missing=on_missing,
            schema=self.schema,
            compiler=self._compiler,
            candidate_id=self.candidate_id,
        )

    def evaluate(self, request: Request, *, explain: ExplainLevel = ExplainLevel.NONE) -> Decision:
        """Decide one request. Never raises: a defect inside a condition counts as ERROR."""
        candidates = self._index.candidates(request.action, request.tool)
        said: list[Judged] = []
        try:
            for test, judgements in candidates.shared:
                value = test(request)
                if value:
                    said.append(judgements[value])
            if candidates.scoped:
                for test, judgements in _scoped(candidates, request):
                    value = test(request)
                    if value:
                        said.append(judgements[value])
        except Exception:  # noqa: BLE001 - judged again, policy by policy, with defects as ERROR
            decision = self.evaluate_linear(request)
        else:
            key = tuple(said)
            decision = self._decisions.get(key) or self._remember(key)
        if explain is ExplainLevel.NONE:
            return decision
        return self._explained(decision, request, explain)

    def evaluate_linear(self, request: Request) -> Decision:
        """Decide by asking every policy, without the index: the yardstick of `evaluate`."""
        judged = (
            (policy, value)
            for policy in self._compiled.values()
            if policy.policy.enabled and (value := policy.judge(request))
        )
        return self._combine(judged)

    def why_not(self, policy_id: str, request: Request) -> PolicyExplanation | None:
        """Explain what one policy makes of a request; None when there is no such policy."""
        policy = self._compiled.get(policy_id)
        return None if policy is None else explain_policy(policy, request)

    def get(self, policy_id: str) -> Policy | None:
        """Return one policy, None when it is not here."""
        compiled = self._compiled.get(policy_id)
        return None if compiled is None else compiled.policy

    def compiled(self, policy: Policy) -> CompiledPolicy | None:
        """Return this very policy, compiled; None if the set does not hold it."""
        found = self._compiled.get(policy.policy_id)
        return found if found is not None and found.policy is policy else None

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy, disabled ones too, highest priority first, then by id."""
        return tuple(
            sorted(
                (c.policy for c in self._compiled.values()),
                key=lambda p: (-p.priority, p.policy_id),
            )
        )

    @property
    def digest(self) -> str:
        """What the policies say, as `sha256:..`, whatever the revision; see `digest.py`."""
        if not self._digest:
            self._digest = set_digest(self.digests)
        return self._digest

    def count_digests(self) -> Iterator[None]:
        """Count the digests that were never asked for, some 20 us each; pauses after each 100."""
        if self._digest:
            return
        for number, compiled in enumerate(self._compiled.values(), start=1):
            if compiled.digest and number % _DIGESTS_AT_ONCE == 0:
                yield

    @property
    def digests(self) -> dict[str, str]:
        """What each policy says, by id, as 64 hexadecimal digits; see `digest.py`."""
        return {policy_id: compiled.digest for policy_id, compiled in self._compiled.items()}

    def __len__(self) -> int:
        return len(self._compiled)

    def _remember(self, said: tuple[Judged, ...]) -> Decision:
        decision = self._combine(said)
        self._size += len(said)
        if len(self._decisions) >= DECISIONS_REMEMBERED or self._size > JUDGEMENTS_REMEMBERED:
            self._decisions.clear()
            self._size = len(said)
        self._decisions[said] = decision
        return decision

    def _combine(self, judged: Iterable[Judged]) -> Decision:
        return combine(
            judged,
            default=self.default_effect,
            empty=not self._compiled,
            revision=self.revision,
            candidate_id=self.candidate_id,
        )

    def _explained(self, decision: Decision, request: Request, level: ExplainLevel) -> Decision:
        return replace(
            decision, explanation=explain(self._compiled.values(), request, decision, level)
        )


def _scoped(candidates: Candidates, request: Request) -> tuple[Entry, ...]:
    """The candidates that belong to the requesting agent."""
    return (
        *candidates.by_id.get(request.agent_id, ()),
        *candidates.by_name.get(agent_name(request), ()),
    )


def _known(policy: Policy, where: PolicySet | None, on_missing: OnMissing) -> CompiledPolicy | None:
    """Return a policy as another set has compiled it; None if it has not."""
    if where is None or where.on_missing is not on_missing:
        return None
    return where.compiled(policy)


def _refuse_default(effect: Effect) -> None:
    if effect not in {Effect.ALLOW, Effect.DENY}:
        raise MalformedInput.of("default_effect", "must be ALLOW or DENY")


def _refuse_broken(compiled: Iterable[CompiledPolicy], on_error: OnError) -> None:
    if on_error is OnError.QUARANTINE:
        return
    violations = [
        FieldViolation(f"policies[{c.policy_id}].{v.field}", v.description)
        for c in compiled
        for v in c.violations
    ]
    if violations:
        raise MalformedInput(*violations)
