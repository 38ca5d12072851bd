"""What the node knows of itself: whose its network namespaces, sockets and translations are."""
