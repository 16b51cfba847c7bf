"""Sets of policies as they change: their history, candidates, stages, tests, and replays."""
