"""The rules of docs/store-security.md are enough for the daemon, and no command in them is idle.

The rules are read from the page itself, so page, daemon and tests cannot drift apart.
"""

import logging
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from redis import exceptions as redis_errors

from controlplane.domain.errors import StoreUnavailable
from controlplane.storage.redis.connection import (
    KeyspaceNotifications,
    StoreConnection,
)
from controlplane.storage.redis.errors import StoreConfigurationError
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.storage.redis.scripts import all_scripts
from fleetplane import AgentSpec, FleetClient, Scope
from tests.fakes.daemon import DaemonError, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.store_rules import (
    CLUSTER_RULE,
    RULE,
    SECRET,
    USER,
    commands,
    fresh,
    give,
    rule_for,
    rules,
    url_for,
    without,
)
from tests.fakes.store_session import SessionFailed, run_session
from tests.fakes.transactions import put_name, transaction
from tests.fakes.valkey import (
    ValkeyServer,
    sentinel_group,
    server_binary,
    valkey_cluster,
    valkey_server,
)

pytestmark = pytest.mark.skipif(
    "redis" in server_binary().name, reason="older servers know fewer subcommands"
)

_FAILURES: Final = (
    SessionFailed,
    StoreUnavailable,
    StoreConfigurationError,
    redis_errors.RedisError,
    redis_errors.RedisClusterException,
)


ESSENTIAL: Final = [c for c in commands(RULE) if without()[c] == "ends"]


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[ValkeyServer]:
    """A server that notifies, as the page says."""
    async with valkey_server("--notify-keyspace-events", "K$", tcp=True) as server:
        await give(server, rule_for(USER))
        yield server


def test_the_page_explains_exactly_the_commands_of_its_rules():
    granted = {command for rule in rules().values() for command in commands(rule)}
    assert granted == set(without())
    everywhere = set(commands(RULE)) & set(commands(CLUSTER_RULE))
    assert set(commands(RULE)) - everywhere == {"select", "waitaof"}
    assert set(commands(CLUSTER_RULE)) - everywhere == {"cluster|slots", "command", "asking"}


def test_every_command_of_the_scripts_is_in_the_rules():
    called = {
        "|".join(word for word in match.groups() if word).lower()
        for script in all_scripts()
        for match in re.finditer(r"call\('(\w+)'(?:, '(STREAM)')?", script.source)
    }
    assert called
    assert called <= set(commands(RULE)) & set(commands(CLUSTER_RULE))


async def test_a_whole_daemon_works_under_the_rule_and_is_refused_nothing_but_config(server):
    await server.command("CONFIG RESETSTAT")
    with running_daemon(store=url_for(server), grace_seconds=1.0) as daemon:
        async with FleetClient(daemon.address) as client, FleetClient(daemon.address) as watcher:
            await client.register(AgentSpec(name="worker", version="1.0.0"))
            async with watcher.watch_config((Scope(),)) as updates:
                await client.update_config({"temperature": 0.25})
                async for update in updates:
                    if update.config.temperature == pytest.approx(0.25):
                        break
            assert [one.spec.name async for one in client.list_agents()] == ["worker"]
        await eventually("notifications are proven", lambda: '"mode": "notify"' in daemon.log)
        daemon.terminate()
        assert await daemon.await_end() == 0
        announced = (daemon.directory / "announced").read_text()
        assert SECRET not in daemon.log + announced
        assert USER + ":" not in daemon.log + announced
    stats = await server.command("INFO commandstats")
    refused = re.findall(r"cmdstat_([^:]+):.*rejected_calls=[1-9]", stats)
    assert refused == ["config|get"]


async def test_a_session_under_the_rule_is_told_of_commits(server):
    async with StoreConnection(url_for(server)) as store:
        facts = await store.check_server()
        seen = await run_session(store, server.command, namespace=fresh("whole"))
    assert facts.keyspace_notifications is KeyspaceNotifications.DENIED
    assert seen.followed_by == "notify"


@pytest.mark.parametrize("lacking", [c for c in ESSENTIAL if c != "select"])
async def test_without_an_essential_command_a_daemon_says_so_and_could_not_have_worked(
    server, lacking
):
    user = fresh("user")
    await give(server, rule_for(user, lacking=lacking))
    async with StoreConnection(url_for(server, user)) as store:
        with pytest.raises(StoreConfigurationError) as refusal:
            await store.check_server()
        assert re.search(rf"\b{re.escape(lacking)}\b", str(refusal.value)), refusal.value
        assert "docs/store-security.md" in str(refusal.value)
        assert SECRET not in str(refusal.value)
        with pytest.raises(_FAILURES):
            await run_session(store, server.command, namespace=fresh("lame"), patience=0.3)


async def test_another_database_needs_select(server):
    rule = RULE.replace("@0__", "@1__")
    for lacking in ("", "select"):
        user = fresh("user")
        await give(server, rule_for(user, rule, lacking=lacking))
        async with StoreConnection(url_for(server, user).replace("/0", "/1")) as store:
            if lacking:
                with pytest.raises(StoreConfigurationError, match=r"\bselect\b"):
                    await store.check_server()
                continue
            await store.check_server()

            async def in_database_1(command: str) -> None:
                await server.command(f"SELECT 1\r\n{command}")

            seen = await run_session(store, in_database_1, namespace=fresh("elsewhere"))
            assert seen.followed_by == "notify"


async def test_who_may_not_read_the_server_is_warned_about_eviction(server, caplog):
    assert "evicted" in without()["info"]
    facts, _, seen = await _session_without(server, "info")
    assert facts.maxmemory_policy is None
    assert "may evict" in caplog.text
    assert seen.followed_by == "notify"


async def test_who_may_not_subscribe_is_warned_and_polls(server, caplog):
    assert without()["subscribe"] == "warns, and polls"
    _, _, seen = await _session_without(server, "subscribe")
    assert seen.followed_by == "poll"
    _assert_warned_about_polling(caplog)


async def test_who_may_not_load_scripts_hands_them_over_when_they_are_needed(server):
    assert "sent again" in without()["script|load"]
    await server.command("SCRIPT FLUSH SYNC")
    await server.command("CONFIG RESETSTAT")
    _, _, seen = await _session_without(server, "script|load")
    assert seen.followed_by == "notify"
    assert re.search(r"cmdstat_eval:calls=([4-9]|\d\d)", await server.command("INFO commandstats"))


async def test_who_may_not_tell_its_library_is_served_without_that(server):
    assert without()["client|setinfo"] == "nothing is shown"
    _, clients, seen = await _session_without(server, "client|setinfo")
    assert "lib-name= " in clients
    assert seen.followed_by == "notify"


async def test_a_store_that_announces_nothing_and_forbids_config_is_polled_with_a_warning(caplog):
    async with valkey_server(tcp=True) as silent:
        await give(silent, rule_for(USER))
        async with StoreConnection(url_for(silent)) as store:
            await store.check_server()
            seen = await run_session(store, silent.command, namespace="silent", patience=1.5)
    assert seen.followed_by == "poll"
    _assert_warned_about_polling(caplog)


@pytest.mark.parametrize("channels", ["&__keyspace@0__:other:*", "&other:*"])
async def test_who_may_not_hear_our_channels_is_warned_and_polls(server, caplog, channels):
    user = fresh("user")
    await give(server, rule_for(user, RULE.replace("&__keyspace@0__:fp:*", channels)))
    async with StoreConnection(url_for(server, user)) as store:
        await store.check_server()
        seen = await run_session(store, server.command, namespace=fresh("deaf"), patience=0.3)
    assert seen.followed_by == "poll"
    _assert_warned_about_polling(caplog)


@pytest.mark.parametrize("keys", ["~other:*", "%R~fp:*"])
async def test_who_may_not_write_our_keys_is_told_which(server, keys):
    user = fresh("user")
    await give(server, rule_for(user, RULE.replace("~fp:*", keys)))
    async with StoreConnection(url_for(server, user)) as store:
        with pytest.raises(StoreConfigurationError, match=r"~fp:\*.*docs/store-security\.md"):
            await store.check_server()


async def test_a_right_that_is_taken_away_later_is_an_absence_of_the_store(server):
    user = fresh("user")
    await give(server, rule_for(user))
    async with StoreConnection(url_for(server, user)) as store:
        await store.check_server()
        await give(server, f"ACL SETUSER {user} -xadd")
        with pytest.raises(StoreUnavailable):
            await run_session(store, server.command, namespace=fresh("robbed"), patience=0.3)
        await give(server, f"ACL SETUSER {user} +xadd")
        await run_session(store, server.command, namespace=fresh("healed"))


async def test_the_rehearsal_leaves_nothing_behind_and_may_run_on_any_leftover():
    async with valkey_server() as server, StoreConnection(server.url) as store:
        await server.command("HSET fp:rehearsal a b")
        await store.check_server()
        assert "string" in await server.command("TYPE fp:rehearsal")
        assert ":1" in await server.command("DBSIZE")
        await server.command("PEXPIRE fp:rehearsal 0")
        assert ":0" in await server.command("DBSIZE")


async def test_a_daemon_that_may_not_do_its_work_ends_with_the_names_of_the_commands(server):
    user = fresh("user")
    await give(server, rule_for(user, lacking="xadd"))
    await give(server, f"ACL SETUSER {user} -zadd")
    with pytest.raises(DaemonError) as ended, running_daemon(store=url_for(server, user)):
        pass
    log = str(ended.value)
    assert re.search(r"may not run xadd, zadd; its rule is in docs/store-security\.md", log)
    assert SECRET not in log
    assert "Traceback" not in log


async def test_a_cluster_works_under_its_rule_and_needs_all_of_it(caplog):
    async with valkey_cluster("--notify-keyspace-events", "K$", size=2) as cluster:

        async def everywhere(command: str) -> None:
            for node in cluster.nodes:
                await node.command(command)

        async def give_everywhere(user: str, lacking: str = "") -> str:
            await everywhere(rule_for(user, CLUSTER_RULE, lacking=lacking))
            return cluster.url.replace("//", f"//{user}:{SECRET}@")

        async with StoreConnection(await give_everywhere(USER)) as store:
            await store.check_server()
            seen = await run_session(store, everywhere, namespace="whole")
            assert seen.followed_by == "notify"
        for lacking in ("cluster|slots", "command", "xadd"):
            assert without()[lacking] == "ends"
            async with StoreConnection(await give_everywhere(fresh("user"), lacking)) as store:
                with pytest.raises(StoreConfigurationError, match=rf"\b{re.escape(lacking)}\b"):
                    await store.check_server()
        # A node that was forgotten is noticed as well.
        url = await give_everywhere("partial")
        await cluster.nodes[1].command("ACL SETUSER partial -zadd")
        async with StoreConnection(url) as store:
            with pytest.raises(StoreConfigurationError, match="zadd"):
                await store.check_server()
        await _assert_asking_is_needed(
            cluster.nodes, await give_everywhere("moving"), await give_everywhere("lost", "asking")
        )
    assert SECRET not in caplog.text


async def _assert_asking_is_needed(
    nodes: tuple[ValkeyServer, ...], granted: str, lacking: str
) -> None:
    """Let the slot of a key be on its way from one node to the other."""
    key = "fp:{moving}:rev"
    slot = int((await nodes[0].command(f"CLUSTER KEYSLOT {key}")).strip(":\r\n"))
    source, target = sorted(nodes, key=lambda n: (slot > 8192) == (n is nodes[0]))
    ids = [(await n.command("CLUSTER MYID")).split("\r\n")[1] for n in (source, target)]
    await give(target, f"CLUSTER SETSLOT {slot} IMPORTING {ids[0]}")
    await give(source, f"CLUSTER SETSLOT {slot} MIGRATING {ids[1]}")
    assert without()["asking"] == "calls about its namespaces are refused while it moves"
    client: Any
    async with StoreConnection(granted) as store:
        client = store.reads
        assert await client.get(key) is None
    async with StoreConnection(lacking) as store:
        await store.check_server()
        client = store.reads
        with pytest.raises((redis_errors.RedisError, redis_errors.RedisClusterException)):
            await client.get(key)


async def test_sentinels_need_one_command():
    async with sentinel_group() as group:
        sentinel = group.sentinels[0]
        url = group.url.replace("//", f"//{USER}:{SECRET}@")
        await give(group.primary, rule_for(USER))
        await give(group.primary, "CONFIG SET notify-keyspace-events K$")
        watcher = f"sentinel_username={USER}&sentinel_password={SECRET}"
        await give(sentinel, rule_for(USER, rules()["the"]))
        async with StoreConnection(f"{url}?{watcher}") as store:
            await store.check_server()
            seen = await run_session(store, group.primary.command, namespace="watched")
            assert seen.followed_by == "notify"
        async with StoreConnection(f"{url}?{watcher}-wrong") as store:
            with pytest.raises(StoreConfigurationError, match=r"asking a sentinel.*credentials"):
                await store.check_server()
        await give(sentinel, f"ACL SETUSER {USER} -sentinel|masters")
        assert without()["sentinel|masters"] == "ends"
        async with StoreConnection(f"{url}?{watcher}") as store:
            with pytest.raises(StoreConfigurationError, match=r"sentinel\|masters"):
                await store.check_server()


async def _session_without(server: ValkeyServer, lacking: str) -> Any:
    """Return (facts, CLIENT LIST, what was seen) of a user without one command."""
    user = fresh("user")
    await give(server, rule_for(user, lacking=lacking))
    patience = 0.5 if lacking == "subscribe" else 5.0
    async with StoreConnection(url_for(server, user)) as store:
        facts = await store.check_server()
        listed = (await server.command("CLIENT LIST")).splitlines()
        clients = "\n".join(line for line in listed if f"user={user} " in line)
        seen = await run_session(store, server.command, namespace=fresh("less"), patience=patience)
    return facts, clients, seen


def _assert_warned_about_polling(caplog: pytest.LogCaptureFixture) -> None:
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    told = [r for r in warnings if "notify-keyspace-events" in r.message]
    assert told
    assert {vars(r)["manual"] for r in told} == {"docs/store-security.md"}


async def test_who_may_not_ask_for_the_disk_is_warned_and_served(server, caplog):
    assert without()["waitaof"].startswith("warns")
    name = fresh("forgetful")
    await give(server, rule_for(name, lacking="waitaof"))
    async with (
        StoreConnection(url_for(server, name)) as connection,
        RedisLedger(connection) as ledger,
    ):
        for key in ("a", "b"):
            await ledger.commit(transaction(put_name(key), namespace=name, durable=True))
    assert caplog.text.count("cannot say what is on its disk") == 1
