"""Corpora: stories and their speech, played music, folders of yours, and shards for training."""
