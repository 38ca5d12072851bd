"""Events for people: kept for a while, filtered in Hubble's words, written as lines or JSON."""
