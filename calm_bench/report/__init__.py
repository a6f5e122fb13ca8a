"""Tables, plots and the listening page, rebuilt from a run's records; never imports torch."""
