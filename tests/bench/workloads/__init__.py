"""One module for each workload of the benchmark; `run(plan)` returns its rows."""
