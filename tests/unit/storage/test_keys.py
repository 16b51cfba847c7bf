from redis.crc import key_slot

from controlplane.services.ports import UNFOLLOWED, Collection
from controlplane.storage.redis.keys import (
    NAMESPACES_MARK,
    NAMESPACES_SET,
    canary_key,
    keys_of,
    keyspace_channel,
)


def all_keys(namespace: str) -> list[str]:
    keys = keys_of(namespace)
    return [
        keys.rev,
        keys.epoch,
        keys.changes,
        keys.audit,
        keys.deadlines,
        keys.beats,
        keys.swept,
        keys.counts,
        *keys.collections.values(),
        keys.history("config:namespace"),
        keys.request("req-1"),
        canary_key(keys.rev, "replica-1"),
    ]


def test_all_keys_of_a_namespace_share_one_cluster_slot():
    for namespace in ("team-a", "default", "namespaces"):
        assert len({key_slot(key.encode()) for key in all_keys(namespace)}) == 1


def test_no_two_things_share_a_key():
    everything = [
        *all_keys("team-a"),
        *all_keys("namespaces"),
        NAMESPACES_SET,
        NAMESPACES_MARK,
        canary_key(NAMESPACES_MARK, "replica-2"),
    ]
    assert len(set(everything)) == len(everything)
    assert set(keys_of("team-a").collections) == set(Collection)
    assert set(keys_of("team-a").followed) == set(Collection) - UNFOLLOWED


def test_the_channel_names_database_and_key():
    assert keyspace_channel(3, keys_of("a").rev) == "__keyspace@3__:fp:{a}:rev"
