"""The commands: one file a verb, its options beside it."""
