"""Running models: sessions of every backend, and images of any size over them."""
