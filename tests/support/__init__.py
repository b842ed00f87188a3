"""What tests share: fakes, makers and oracles."""
