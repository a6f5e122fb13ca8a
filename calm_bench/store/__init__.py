"""The run folder: records, results and their names."""
