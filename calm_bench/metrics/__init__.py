"""The numbers: one file each, all behind `Metric`."""
