"""Training: the loop over steps, the problem that is to be trained, its settings."""
