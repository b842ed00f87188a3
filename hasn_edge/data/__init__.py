"""Training images, evaluation sets and calibration data."""
