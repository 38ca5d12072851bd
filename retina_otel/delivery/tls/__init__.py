"""What is trusted and who we are, from files that may be replaced at any time."""
