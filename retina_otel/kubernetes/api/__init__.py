"""The API server: connections, lists and watches, and what they bring, reduced to what is used."""
