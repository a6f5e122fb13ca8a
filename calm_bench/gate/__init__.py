"""`calm-bench check`: has this tree become slower? Counts everywhere, time by interleaved pairs."""
