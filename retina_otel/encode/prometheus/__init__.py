"""Points as a page that Prometheus scrapes: text, OpenMetrics or protobuf."""
