"""`retina-otel demo`: a lab, the agent before it, and what it sees beside what was sent."""
