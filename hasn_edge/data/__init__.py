"""Training pictures, evaluation sets and calibration data."""
