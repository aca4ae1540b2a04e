"""The version of this library."""

__version__ = "0.8.0"
