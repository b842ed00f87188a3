"""The build path, from a model to published files."""
