"""regionr1 learns where to look before ranking."""

__version__ = "0.1.0"
