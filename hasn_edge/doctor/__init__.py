"""What this machine can build and run, and what stands in the way."""
