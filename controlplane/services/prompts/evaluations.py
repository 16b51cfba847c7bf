"""Evaluations: recorded, listed, and compared before labels move."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import msgspec

from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.comparison import Comparison, Side, compare, judge_alone
from controlplane.domain.prompts.evaluations import (
    Evaluation,
    ScoredItem,
    check_items,
    check_run,
    p95,
)
from controlplane.domain.prompts.labels import baseline_of
from controlplane.domain.prompts.model import LabelGate, Prompt, version_key
from controlplane.domain.prompts.refusals import (
    EvaluationNotFound,
    LabelNotFound,
    PromptVersionNotFound,
)
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    IdSource,
    Ledger,
    Position,
    Put,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.prompts.catalogue import evaluations_of, find_prompt, find_version
from controlplane.services.read_model import NamespaceView, ReadModel

COMPARED_AT_ONCE: Final = 2
"""Comparisons at a time: each takes a thread for up to a second."""

REMEMBERED: Final = 256
"""Comparisons that stay known; evaluations never change, so neither do they."""

REMOVED_AT_ONCE: Final = 20
"""Old evaluations removed with the recording of one."""

_SEED_BYTES: Final = 4

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[ScoredItem, ...]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is recorded."""

    prompt: str
    version: int
    dataset_sha256: str
    scorer: str
    scorer_version: str
    model: str
    seed: int
    items: tuple[ScoredItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which evaluations are compared: by version, by label, or exactly."""

    candidate_version: int = 0
    baseline_version: int = 0
    baseline_label: str = ""
    candidate_id: str = ""
    baseline_id: str = ""
    dataset_sha256: str = ""
    gate_label: str = ""
    min_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPage:
    """Some evaluations, newest first."""

    evaluations: tuple[Evaluation, ...]
    next_cursor: str
    position: Position


class Evaluations:
    """Keeps evaluations and compares them."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, ids: IdSource, *, kept: int) -> None:
        """Keep `kept` evaluations of each prompt, and those that its labels still need."""
        self._ledger = ledger
        self._read_model = read_model
        self._ids = ids
        self._kept = kept
        self._comparing = asyncio.Semaphore(COMPARED_AT_ONCE)
        self._compared: OrderedDict[tuple[str, str, LabelGate], Comparison] = OrderedDict()

    async def record(
        self, namespace: str, run: Run, *, request: RequestKey | None, caller: Caller
    ) -> Evaluation:
        """Record how a version did.

        Raises:
            InvalidArgument: an item or what it says of itself is malformed.
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            StoreUnavailable: the store does not answer.
        """
        check_run(run.dataset_sha256, run.scorer, run.scorer_version, run.model)
        packed = await asyncio.to_thread(_packed, run.items)
        if request is not None:
            before = await self._ledger.find_request(namespace, request)
            if before is not None:
                return await self._stored(namespace, before.answer)
        view = self._read_model.view(namespace)
        find_prompt(view, run.prompt)
        version = find_version(view, run.prompt, run.version)
        fresh = _summary(run, self._ids.new_id("evl"), version.content_sha256, caller)
        key = version_key(run.prompt, run.version)
        transaction = Transaction(
            namespace=namespace,
            steps=(
                Require(Collection.PROMPT_VERSIONS, key, Expect(revision=version.revision)),
                Put(Collection.EVALUATIONS, fresh.evaluation_id, fresh, ABSENT),
                Put(Collection.EVALUATION_SCORES, fresh.evaluation_id, packed),
                *self._removals(view, run.prompt),
            ),
            audit=AuditEntry(
                actor=caller.name,
                method="RecordEvaluation",
                object=f"prompts/{run.prompt}",
                event="prompt.evaluated",
                request_id=request.request_id if request is not None else "",
                details={
                    "evaluation_id": fresh.evaluation_id,
                    "version": str(run.version),
                    "dataset_sha256": run.dataset_sha256,
                    "scorer": run.scorer,
                    "mean_score": f"{fresh.mean_score:.6f}",
                },
            ),
            request=request,
            answer=fresh.evaluation_id,
        )
        try:
            committed = await self._ledger.commit(transaction)
        except ConditionFailed:
            raise PromptVersionNotFound(run.prompt, run.version) from None
        if committed.replayed:
            return await self._stored(namespace, committed.answer)
        return replace(fresh, revision=committed.revision, created_at_ms=committed.at_ms)

    def _removals(self, view: NamespaceView, prompt: str) -> Iterable[Step]:
        """Return what removes evaluations that are too many; those of labels in use stay."""
        needed = {one.version for one in find_prompt(view, prompt).labels.values()}
        kept: set[tuple[object, ...]] = set()
        removed = 0
        for number, one in enumerate(evaluations_of(view, prompt), start=1):
            same = (one.version, one.dataset_sha256, one.scorer, one.scorer_version)
            is_needed = one.version in needed and same not in kept
            kept.add(same)
            if number < self._kept or is_needed or removed >= REMOVED_AT_ONCE:
                continue
            removed += 1
            yield Delete(Collection.EVALUATIONS, one.evaluation_id)
            yield Delete(Collection.EVALUATION_SCORES, one.evaluation_id)

    async def _stored(self, namespace: str, evaluation_id: str) -> Evaluation:
        (record,) = await self._ledger.read(namespace, Collection.EVALUATIONS, (evaluation_id,))
        if record is None:
            raise EvaluationNotFound(f"evaluation {evaluation_id!r}", evaluation_id)
        found: Evaluation = record.value
        return found

    async def page(
        self,
        namespace: str,
        prompt: str,
        *,
        version: int,
        dataset_sha256: str,
        before: int | None,
        limit: int,
        min_revision: int,
    ) -> EvaluationPage:
        """Return at most `limit` evaluations below a revision, newest first.

        Raises:
            PromptNotFound: there is no such prompt.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        view = await self._read_model.at_least(namespace, min_revision)
        find_prompt(view, prompt)
        found = [
            one
            for one in evaluations_of(view, prompt)
            if (before is None or one.revision < before)
            and version in {0, one.version}
            and dataset_sha256 in {"", one.dataset_sha256}
        ]
        return EvaluationPage(
            evaluations=tuple(found[:limit]),
            next_cursor=str(found[limit - 1].revision) if len(found) > limit else "",
            position=view.position,
        )

    async def compare(self, namespace: str, prompt: str, choice: Choice) -> Comparison:
        """Compare two evaluated versions.

        Raises:
            PromptNotFound: there is no such prompt.
            LabelNotFound: it has no such label, or that has no gate.
            EvaluationNotFound: a version was not evaluated on that data set.
            NotComparable: the evaluations are not of the same data set, scorer and items.
            InvalidArgument: the request names too little.
        """
        view = await self._read_model.at_least(namespace, choice.min_revision)
        known = find_prompt(view, prompt)
        rules = _rules(known, choice.gate_label)
        found = evaluations_of(view, prompt)
        candidate = _candidate(found, choice, rules)
        baseline = _baseline(found, choice, known, candidate)
        return await self.compared(namespace, candidate, baseline, rules)

    async def compared(
        self, namespace: str, candidate: Evaluation, baseline: Evaluation | None, rules: LabelGate
    ) -> Comparison:
        """Compare two evaluations, or judge one alone, in a thread; remembered.

        Raises:
            EvaluationNotFound: the items of one were removed in the meantime.
            NotComparable: they are not of the same data set, scorer and items.
        """
        other = baseline.evaluation_id if baseline is not None else ""
        judged_by = replace(rules, set_by="", reason="", baseline_version=0)
        key = (candidate.evaluation_id, other, judged_by)
        known = self._compared.get(key)
        if known is not None:
            self._compared.move_to_end(key)
            return known
        wanted = (candidate,) if baseline is None else (candidate, baseline)
        async with self._comparing:
            packed = await self._scores(namespace, wanted)
            found = await asyncio.to_thread(_judged, wanted, packed, rules)
        self._compared[key] = found
        if len(self._compared) > REMEMBERED:
            self._compared.popitem(last=False)
        return found

    async def _scores(self, namespace: str, runs: Sequence[Evaluation]) -> list[bytes]:
        ids = [run.evaluation_id for run in runs]
        records = await self._ledger.read(namespace, Collection.EVALUATION_SCORES, ids)
        found: list[bytes] = []
        for run, record in zip(runs, records, strict=True):
            if record is None:
                what = f"items of evaluation {run.evaluation_id!r}"
                raise EvaluationNotFound(what, run.evaluation_id)
            found.append(record.value)
        return found


def newest_of(found: Sequence[Evaluation], version: int, rules: LabelGate) -> Evaluation | None:
    """Return the newest evaluation of a version that a gate accepts; None: there is none."""
    for one in found:
        if (
            one.version == version
            and rules.dataset_sha256 in {"", one.dataset_sha256}
            and rules.scorer in {"", one.scorer}
            and rules.scorer_version in {"", one.scorer_version}
        ):
            return one
    return None


def like(candidate: Evaluation) -> LabelGate:
    """Return what an evaluation has to be of to be comparable with a candidate's."""
    return LabelGate(
        dataset_sha256=candidate.dataset_sha256,
        scorer=candidate.scorer,
        scorer_version=candidate.scorer_version,
    )


def _packed(items: tuple[ScoredItem, ...]) -> bytes:
    check_items(items)
    return _encode(items)


def _summary(run: Run, evaluation_id: str, content_sha256: str, caller: Caller) -> Evaluation:
    items = run.items
    return Evaluation(
        evaluation_id=evaluation_id,
        prompt=run.prompt,
        version=run.version,
        content_sha256=content_sha256,
        dataset_sha256=run.dataset_sha256,
        scorer=run.scorer,
        scorer_version=run.scorer_version,
        model=run.model,
        seed=run.seed,
        items=len(items),
        trials=len(items[0].scores),
        mean_score=sum(item.mean for item in items) / len(items),
        cost=sum(item.cost for item in items),
        p95_latency_ms=p95([item.latency_ms for item in items]),
        recorded_by=caller.name,
    )


def _judged(runs: Sequence[Evaluation], packed: Sequence[bytes], rules: LabelGate) -> Comparison:
    sides = [Side(run=run, items=_decode(data)) for run, data in zip(runs, packed, strict=True)]
    if len(sides) == 1:
        return judge_alone(sides[0], rules)
    seed = sha256("\x1f".join(run.evaluation_id for run in runs).encode()).digest()[:_SEED_BYTES]
    return compare(sides[0], sides[1], rules, seed=int.from_bytes(seed))


def _rules(prompt: Prompt, gate_label: str) -> LabelGate:
    if not gate_label:
        return LabelGate()
    rules = prompt.gates.get(gate_label)
    if rules is None:
        raise LabelNotFound(prompt.name, f"{gate_label} with a gate")
    return rules


def _candidate(found: Sequence[Evaluation], choice: Choice, rules: LabelGate) -> Evaluation:
    if choice.candidate_id:
        return _exactly(found, choice.candidate_id)
    if not choice.candidate_version:
        raise InvalidArgument.of("candidate_version", "is required")
    wanted = rules
    if choice.dataset_sha256:
        wanted = replace(rules, dataset_sha256=choice.dataset_sha256)
    run = newest_of(found, choice.candidate_version, wanted)
    if run is None:
        raise _not_evaluated(choice.candidate_version, wanted.dataset_sha256)
    return run


def _baseline(
    found: Sequence[Evaluation], choice: Choice, prompt: Prompt, candidate: Evaluation
) -> Evaluation:
    if choice.baseline_id:
        return _exactly(found, choice.baseline_id)
    version = choice.baseline_version
    if not version:
        label = choice.baseline_label or choice.gate_label
        if not label:
            raise InvalidArgument.of("baseline_version", "or a label is required")
        version = baseline_of(prompt, label)
        if not version:
            raise LabelNotFound(prompt.name, label)
    run = newest_of(found, version, like(candidate))
    if run is None:
        raise _not_evaluated(version, candidate.dataset_sha256)
    return run


def _exactly(found: Sequence[Evaluation], evaluation_id: str) -> Evaluation:
    for one in found:
        if one.evaluation_id == evaluation_id:
            return one
    raise EvaluationNotFound(f"evaluation {evaluation_id!r} of this prompt", evaluation_id)


def _not_evaluated(version: int, dataset_sha256: str) -> EvaluationNotFound:
    where = f" on data set {dataset_sha256}" if dataset_sha256 else ""
    return EvaluationNotFound(f"evaluation of version {version}{where} with the same scorer")
