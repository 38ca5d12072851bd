"""Who is who, by the Kubernetes objects there are. Pure: no I/O and no clock."""
