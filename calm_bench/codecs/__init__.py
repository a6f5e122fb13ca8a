"""One causal autoencoder trunk, two bottlenecks: Gaussian VAE and residual vector quantiser."""
