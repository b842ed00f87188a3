"""Images: arrays in memory, files on disk, and which files are meant."""
