"""BPF objects, maps and rings, and what attaches programs."""
