"""The network, its checkpoints and the models that ship."""
