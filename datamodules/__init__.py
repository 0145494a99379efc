"""Lightning datamodules and the samplers they use."""
