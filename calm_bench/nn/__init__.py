"""Pure torch: transformer, AdaLN MLP, consistency objective, depth transformer; no audio."""
