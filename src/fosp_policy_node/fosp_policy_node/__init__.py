"""Policy node: one frame in, one decision out, by the model bundle's latent filter and policy expansion."""
