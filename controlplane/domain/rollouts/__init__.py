"""Rollouts: the plan, its state machine and the statistics that judge a step."""
