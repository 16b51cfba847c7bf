"""The life of agents by decision: activation, drains, deactivation, stops, retirement."""
