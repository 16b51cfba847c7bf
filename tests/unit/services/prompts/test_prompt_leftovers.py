from controlplane.domain.prompts.model import labels_history
from controlplane.services.namespaces.leftovers import ended_steps
from controlplane.services.ports import AuditEntry, Collection, Transaction
from tests.fakes.plane import NS
from tests.fakes.prompt_world import PROMPT, PromptWorld, items


async def test_nothing_of_prompts_outlives_their_namespace():
    world = PromptWorld()
    await world.follow()
    await world.write("one")
    await world.move(1)
    recorded = await world.evaluate(1, items(1.0, 0.5))
    await world.resolve("", "s-1")
    audit = AuditEntry(actor="plane", method="DeleteNamespace", object="namespaces/default")
    steps = tuple(ended_steps(world.view))
    await world.plane.ledger.commit(Transaction(namespace=NS, steps=steps, audit=audit))
    await world.follow()
    for collection in (
        Collection.PROMPTS,
        Collection.PROMPT_VERSIONS,
        Collection.PROMPT_PINS,
        Collection.EVALUATIONS,
    ):
        assert not world.view.governance.table(collection)
    scores = await world.plane.ledger.read(
        NS, Collection.EVALUATION_SCORES, (recorded.evaluation_id,)
    )
    assert scores == [None]
    assert not await world.plane.ledger.read_history(NS, labels_history(PROMPT))
