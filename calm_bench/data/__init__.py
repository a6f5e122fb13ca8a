"""Corpora: stories and their speech, folders of yours, and the shards that training reads."""
