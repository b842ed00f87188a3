"""Quality and speed of networks: scores against ground truth, agreement between two forms, latency."""
