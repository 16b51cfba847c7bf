"""What is left in a namespace that is empty, and of it elsewhere, as the steps that remove it.

Whoever makes a namespace of the same name again must find nothing of the one before: no names that
are taken by agents of then, no tasks with their data, no history of configuration, no rights.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.domain.access.records import uses_counter
from controlplane.domain.configs.extra_schema import EXTRA_SCHEMA_KEY
from controlplane.domain.drains import acknowledgement_key
from controlplane.domain.policy_sets.candidates import CANDIDATES_COUNTER
from controlplane.domain.policy_sets.history import HISTORY
from controlplane.domain.prompts.model import labels_history
from controlplane.services.access.view import AccessView
from controlplane.services.approvals.records import pending_counter
from controlplane.services.configs import history_name
from controlplane.services.governance_view import GovernanceView
from controlplane.services.ports import (
    Append,
    ClearDeadline,
    Collection,
    Delete,
    Expect,
    ResetCount,
    Step,
)
from controlplane.services.read_model import NamespaceView
from controlplane.services.tasks.data import TaskPart, data_key
from controlplane.services.tasks.steps import slots_counter
from controlplane.services.work_view import WorkView

STEPS_AT_ONCE: Final = 500
"""Steps of one commit: a few milliseconds of the store."""


def ended_steps(view: NamespaceView) -> Iterator[Step]:
    """Yield what removes every record of a namespace that holds nothing but what has ended.

    What could be used again is removed on condition that it is as it was seen.
    """
    for agent_id, entry in view.agents.items():
        yield Delete(Collection.NAMES, entry.agent.spec.name_version)
        yield Delete(Collection.AGENTS, agent_id)
    for instance_id in view.instances:
        yield Delete(Collection.INSTANCES, instance_id)
        yield ClearDeadline(instance_id)
        yield ResetCount(slots_counter(instance_id))
    for key, layer in view.layers.items():
        yield Delete(Collection.CONFIG_LAYERS, key, Expect(revision=layer.revision))
        yield Append(history_name(layer.scope), layer, keep=0)
    schema = view.extra_schema
    if schema is not None:
        unchanged = Expect(revision=schema.revision)
        yield Delete(Collection.CONFIG_SCHEMAS, EXTRA_SCHEMA_KEY, unchanged)
    yield from _work_steps(view.work)
    yield from _policy_steps(view.governance)
    yield from _approval_steps(view)
    yield from _prompt_steps(view.governance)
    # What their units have left is not in a copy: see `services.experiments.erasure`.
    yield from _deletes(Collection.EXPERIMENTS, view.governance.table(Collection.EXPERIMENTS))


def _policy_steps(governance: GovernanceView) -> Iterator[Step]:
    """Yield what removes what is said about the policies, of which there are none left."""
    for collection in (
        Collection.POLICY_SETTINGS,
        Collection.POLICY_CANDIDATES,
        Collection.POLICY_STAGES,
    ):
        yield from _deletes(collection, governance.table(collection))
    yield ResetCount(CANDIDATES_COUNTER)
    yield Append(HISTORY, "removed", keep=0)


def _approval_steps(view: NamespaceView) -> Iterator[Step]:
    """Yield what removes approvals, open ones included: nobody is left who could use them."""
    for collection in (
        Collection.APPROVALS,
        Collection.OPEN_APPROVALS,
        Collection.STANDING_GRANTS,
        Collection.WEBHOOK_OUTBOX,
    ):
        yield from _deletes(collection, view.governance.table(collection))
    for agent_id in view.agents:
        yield ResetCount(pending_counter(agent_id))


def _prompt_steps(governance: GovernanceView) -> Iterator[Step]:
    """Yield what removes prompts with all that was ever said about them.

    Prompts do not keep a namespace from being removed: they are immutable, so nobody could take
    them away before.
    """
    for name in governance.table(Collection.PROMPTS):
        yield Delete(Collection.PROMPTS, name)
        yield Append(labels_history(name), "removed", keep=0)
    yield from _deletes(Collection.PROMPT_VERSIONS, governance.table(Collection.PROMPT_VERSIONS))
    yield from _deletes(Collection.PROMPT_PINS, governance.table(Collection.PROMPT_PINS))
    for evaluation_id in governance.table(Collection.EVALUATIONS):
        yield Delete(Collection.EVALUATIONS, evaluation_id)
        yield Delete(Collection.EVALUATION_SCORES, evaluation_id)


def rights_steps(access: AccessView, namespace: str) -> Iterator[Step]:
    """Yield what removes, in the system namespace, what holds in one namespace only."""
    for binding in access.bindings.values():
        if binding.namespace == namespace:
            yield Delete(Collection.ROLE_BINDINGS, binding.binding_id)
    for token in access.api_tokens.values():
        if token.namespace == namespace:
            yield Delete(Collection.API_TOKENS, token.token_id)
            yield Delete(Collection.TOKEN_USES, token.token_id)
    for join_token in access.join_tokens.values():
        if join_token.namespace == namespace:
            yield Delete(Collection.JOIN_TOKENS, join_token.token_id)
            yield ResetCount(uses_counter(join_token.token_id))
    for key, ban in access.bans.items():
        if ban.namespace == namespace:
            yield Delete(Collection.BANS, key)


def _work_steps(work: WorkView) -> Iterator[Step]:
    for task_id in work.tasks.all:
        yield Delete(Collection.TASKS, task_id)
        for part in TaskPart:
            yield Delete(Collection.TASK_DATA, data_key(task_id, part))
    for stop_id, answers in work.stop_acknowledgements.items():
        for instance_id in answers:
            key = acknowledgement_key(stop_id, instance_id)
            yield Delete(Collection.STOP_ACKNOWLEDGEMENTS, key)
    yield from _deletes(Collection.TASK_STREAMS, work.task_streams)
    yield from _deletes(Collection.SESSION_PINS, work.pins)
    yield from _deletes(Collection.DRAINS, work.drains)
    yield from _deletes(Collection.STOPS, work.stops)
    yield from _deletes(Collection.ROLLOUTS, work.rollouts)


def _deletes(collection: Collection, keys: Iterable[str]) -> Iterator[Step]:
    return (Delete(collection, key) for key in keys)
