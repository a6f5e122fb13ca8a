"""`calm-bench speed`: how fast every system is, next to each other and to what memory allows."""
