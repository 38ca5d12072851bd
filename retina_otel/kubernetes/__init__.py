"""What the Kubernetes API says: access to it, lists and watches, and who is who by that."""
