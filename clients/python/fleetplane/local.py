"""Decisions in this process, by name: for annotations and sinks of one's own.

Needs `fleetplane-client[policies]`. `FleetClient.local_policies` makes a `LocalPolicies`.
"""

from fleetplane._decision_reports import DecisionBatch, DecisionRecord, DecisionSink
from fleetplane._local_policies import LocalPolicies

__all__ = ["DecisionBatch", "DecisionRecord", "DecisionSink", "LocalPolicies"]
