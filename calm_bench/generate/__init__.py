"""The clips are made."""
