"""From prepared pictures to a checkpoint."""
