"""Listening tests: who hears what, votes on disk, the local server, and what the votes say."""
