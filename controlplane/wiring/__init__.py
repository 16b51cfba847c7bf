"""Builds one replica: constructor calls only, in the order of their dependencies."""

from controlplane.wiring.ports import OnTransition, Ports
from controlplane.wiring.replica import Replica, build_replica, liveness_settings

__all__ = ["OnTransition", "Ports", "Replica", "build_replica", "liveness_settings"]
