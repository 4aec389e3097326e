"""regionr1 learns where to look before ranking."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["RegionReranker"]


def __getattr__(name: str) -> Any:
    """Loads the library class, and torch with it, when it is first asked for."""
    if name == "RegionReranker":
        from regionr1.serve.region_reranker import RegionReranker

        return RegionReranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
