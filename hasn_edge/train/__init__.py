"""From prepared images to a checkpoint."""
