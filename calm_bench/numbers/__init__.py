"""Times to ratios, and which rows are compared."""
