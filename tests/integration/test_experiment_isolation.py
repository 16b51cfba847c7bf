"""Experiments of agents and tenants kept apart, by a whole replica that authenticates."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.api.identification import Identification
from controlplane.settings import Settings
from controlplane.storage.memory.ledger import MemoryLedger
from fleetplane.v1 import experiment_service_pb2 as pb
from tests.fakes.callers import KnownCallers, agent, make_namespace, showing, user
from tests.fakes.memory_replica import MemoryReplica, memory_replica
from tests.fakes.refused_call import refused

pytestmark = pytest.mark.timeout(60)

AS_MINE, AS_OTHER, AS_TEAMS = showing("mine"), showing("other"), showing("teams")
AS_ROOT = showing("root")


@pytest.fixture
async def replica() -> AsyncIterator[MemoryReplica]:
    known = KnownCallers(
        mine=agent("mine"),
        other=agent("other"),
        teams=agent("mine", "team"),
        root=user("root", is_admin=True),
    )
    who = Identification(known, reads_certificates=False)
    async with memory_replica(Settings(secure=True), who) as made:
        await make_namespace(MemoryLedger(made.store), "team")
        yield made


async def test_an_agent_deals_and_reports_for_itself_and_of_what_it_has_exposed(replica):
    stub = replica.experiments
    metric = pb.ExperimentMetric(name="solved")
    subject = pb.ExperimentSubject(config_path="temperature")
    spec = pb.ExperimentSpec(subject=subject, primary=metric, agents=["mine"])
    for name, value in (("a", 0.2), ("b", 0.9)):
        variant = spec.variants.add(name=name, weight_bp=5_000, control=name == "a")
        variant.config_value.number_value = value
    create = pb.CreateExperimentRequest(key="warmth", spec=spec)
    assert await refused(stub.CreateExperiment(create, metadata=AS_MINE)) == "PERMISSION_DENIED"
    await stub.CreateExperiment(create, metadata=AS_ROOT)
    start = pb.StartExperimentRequest(key="warmth")
    assert await refused(stub.StartExperiment(start, metadata=AS_MINE)) == "PERMISSION_DENIED"
    await stub.StartExperiment(start, metadata=AS_ROOT)

    def asking(**fields: Any) -> Any:
        return pb.AssignVariantRequest(key="warmth", unit="s-1", **fields)

    named = stub.AssignVariant(asking(agent_name="mine"), metadata=AS_OTHER)
    assert await refused(named) == "FOREIGN_AGENT"
    outside = (await stub.AssignVariant(asking(), metadata=AS_OTHER)).assignment
    assert outside.reason == pb.ASSIGNMENT_REASON_NOT_COVERED
    dealt = (await stub.AssignVariant(asking(), metadata=AS_MINE)).assignment
    assert dealt.reason == pb.ASSIGNMENT_REASON_IN_EXPERIMENT

    exposure = pb.Exposure(unit="s-1", variant=dealt.variant.name, digest=dealt.variant.digest)
    used = pb.RecordExposureRequest(key="warmth", exposure=exposure)
    outcome = pb.Outcome(unit="s-1", metric="solved", value=1)
    came = pb.RecordOutcomeRequest(key="warmth", outcome=outcome)
    assert await refused(stub.RecordExposure(used, metadata=AS_OTHER)) == "FOREIGN_AGENT"
    assert await refused(stub.RecordExposure(used, metadata=AS_MINE)) == ""
    assert await refused(stub.RecordOutcome(came, metadata=AS_OTHER)) == "FOREIGN_AGENT"
    assert await refused(stub.RecordOutcome(came, metadata=AS_MINE)) == ""
    analysis = pb.AnalyzeExperimentRequest(key="warmth")
    assert await refused(stub.AnalyzeExperiment(analysis, metadata=AS_MINE)) == "PERMISSION_DENIED"

    elsewhere = pb.GetExperimentRequest(namespace="team", key="warmth")
    assert await refused(stub.GetExperiment(elsewhere, metadata=AS_ROOT)) == "EXPERIMENT_NOT_FOUND"
    watching = stub.WatchExperiments(
        pb.WatchExperimentsRequest(namespace="team"), metadata=AS_TEAMS
    )
    assert not (await watching.read()).dealt.experiments
    watching.cancel()
