"""Patch a code language model's behaviour in minutes, reversibly and with proof."""

__all__ = ["__version__"]

__version__ = "0.1.0"
