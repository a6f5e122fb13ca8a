"""Files, audio, cache, statistics, the machine: nothing here knows the product."""
