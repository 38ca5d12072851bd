"""One watch for many agents: serves what the Kubernetes API says, and the client that reads it."""
