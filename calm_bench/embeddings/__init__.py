"""Audio to vectors for the set metrics: one file each."""
