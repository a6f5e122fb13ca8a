"""An example of a calm-bench plug-in: one system and one metric."""
