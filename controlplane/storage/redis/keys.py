"""Every key that Fleetplane has in its store, on one page.

All keys of a namespace share the hash tag `{<namespace>}`, so they live in one Cluster slot and one
script may touch them together.

    fp:{ns}:rev             string  revision of the namespace; INCR by every commit. The only string
                                    that a commit always writes, so it announces each commit once
    fp:{ns}:epoch           string  identity of this history; random, made with the first commit
    fp:{ns}:c:<collection>  hash    record key -> frame (see `codec.py`)
    fp:{ns}:changes         stream  one entry per commit, id `<revision>-0`; trimmed
    fp:{ns}:audit           stream  one entry per commit, id `<revision>-0`; trimmed on demand only
    fp:{ns}:seals           stream  seals of the audit, id `<last sequence>-0`
    fp:{ns}:h:<history>     stream  id `<revision>-<n>`; trimmed by each append
    fp:{ns}:req:<id>        string  result of an idempotent request; expires after 10 minutes
    fp:{ns}:deadlines       zset    instance id -> deadline, milliseconds since 1970
    fp:{ns}:counts          hash    counter -> its value in decimal; a counter at 0 has no field
    fp:{ns}:beats           stream  packed beats for the other replicas; trimmed to a few seconds
    fp:{ns}:decisions       stream  packed decisions, one entry per batch; trimmed by age and size
    fp:{ns}:decisions:bytes string  how many bytes that are
    fp:{ns}:decisions:from:<source>
                            string  last batch of a replica, or of an agent; expires after a day
    fp:{ns}:swept           hash    when somebody last looked for lost instances, and a grace period
    fp:{ns}:canary:<id>     string  written by one replica to prove that notifications reach it
    fp:{namespaces}:set     set     every namespace that was ever written
    fp:{namespaces}:mark    string  random, another one whenever the set grows

A namespace must not contain `}`; the rules for names exclude it.
"""

from functools import lru_cache
from typing import Final

from controlplane.services.ports import UNFOLLOWED, Collection

NAMESPACES_TAG: Final = "namespaces"
NAMESPACES_SET: Final = f"fp:{{{NAMESPACES_TAG}}}:set"
NAMESPACES_MARK: Final = f"fp:{{{NAMESPACES_TAG}}}:mark"

# Namespaces whose key names stay built; about 2 KiB each. More namespaces than that work, slower.
_CACHED_NAMESPACES: Final = 4096


class NamespaceKeys:
    """The key names of one namespace. Get it from `keys_of`, which caches."""

    __slots__ = (
        "audit",
        "beats",
        "changes",
        "collections",
        "counts",
        "deadlines",
        "decision_bytes",
        "decisions",
        "epoch",
        "followed",
        "namespace",
        "prefix",
        "rev",
        "seals",
        "swept",
    )

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.prefix = f"fp:{{{namespace}}}:"
        self.rev = self.prefix + "rev"
        self.epoch = self.prefix + "epoch"
        self.changes = self.prefix + "changes"
        self.audit = self.prefix + "audit"
        self.seals = self.prefix + "seals"
        self.deadlines = self.prefix + "deadlines"
        self.counts = self.prefix + "counts"
        self.beats = self.prefix + "beats"
        self.swept = self.prefix + "swept"
        self.decisions = self.prefix + "decisions"
        self.decision_bytes = self.prefix + "decisions:bytes"
        self.collections = {c: f"{self.prefix}c:{c.value}" for c in Collection}
        self.followed = {c: key for c, key in self.collections.items() if c not in UNFOLLOWED}

    def history(self, history: str) -> str:
        """Return the key of a history's stream."""
        return f"{self.prefix}h:{history}"

    def decision_source(self, source: str) -> str:
        """Return the key of the last batch of decisions from a source."""
        return f"{self.prefix}decisions:from:{source}"

    def request(self, request_id: str) -> str:
        """Return the key under which the result of a request is remembered."""
        return f"{self.prefix}req:{request_id}"


@lru_cache(maxsize=_CACHED_NAMESPACES)
def keys_of(namespace: str) -> NamespaceKeys:
    """Return the key names of a namespace."""
    return NamespaceKeys(namespace)


def canary_key(beside: str, replica_id: str) -> str:
    """Return the canary key of a replica in the same Cluster slot as another key."""
    return f"{beside[: beside.index('}:') + 2]}canary:{replica_id}"


def keyspace_channel(db: int, key: str) -> str:
    """Return the channel on which the store announces writes to exactly this key."""
    return f"__keyspace@{db}__:{key}"
