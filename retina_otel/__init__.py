"""Network observability for Kubernetes nodes and pods, from the kernel to OpenTelemetry."""

__version__ = "0.1.0"
