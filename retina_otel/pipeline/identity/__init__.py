"""From interfaces, namespaces and addresses at a time to who that was: rows of endpoints."""
