"""What things cost. `python -m tests.bench` prints a table and writes build/bench.json.

Nothing here asserts a timing: machines are noisy. Each figure stands beside its budget, and where a
yardstick makes sense, beside that yardstick measured in the same run.
"""
