"""Running models: sessions of every backend, and pictures of any size over them."""
