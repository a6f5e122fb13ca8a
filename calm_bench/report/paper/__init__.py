"""The paper rebuilt from stored runs: claims with verdicts, its tables and its figures."""
