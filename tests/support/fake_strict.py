"""What every object of a fake TensorRT is: only recorded names can be read, called or set."""

from __future__ import annotations


class Strict:
    """An object of the module; only recorded names can be read, called or set."""

    def __setattr__(self, name: str, value: object) -> None:
        own = "_trt" in vars(type(self))  # a subclass made in Python may have what it likes
        if own and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)
