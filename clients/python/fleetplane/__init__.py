"""Python SDK of Fleetplane, the control plane for fleets of AI agents."""
