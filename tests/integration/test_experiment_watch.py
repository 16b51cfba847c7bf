"""The SDK follows what experiments deal."""

import asyncio

from fleetplane import ExperimentSpec, FleetClient, Metric, Variant
from tests.fakes.daemon import running_daemon


async def test_a_watch_tells_when_an_experiment_begins_and_when_it_ends() -> None:
    spec = ExperimentSpec(
        config_path="temperature",
        variants=(
            Variant(name="a", weight_bp=5_000, control=True, config_value=0.1),
            Variant(name="b", weight_bp=5_000, config_value=0.9),
        ),
        primary=Metric(name="solved"),
    )
    with running_daemon() as daemon:
        async with (
            asyncio.timeout(60),
            FleetClient(daemon.address) as client,
            client.watch_experiments() as watch,
        ):
            assert not (await anext(watch)).experiments
            await client.create_experiment("heat", spec)
            await client.start_experiment("heat")
            while not (dealt := await anext(watch)).experiments:
                pass
            assert [one.key for one in dealt.experiments] == ["heat"]
            await client.stop_experiment("heat")
            while (await anext(watch)).experiments:
                pass
