"""What a model costs and what it gives, measured."""
