"""Ways to prove who sends: settings, and what adds the headers of each request."""
