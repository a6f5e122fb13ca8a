"""calm-bench: are continuous audio language models better and faster than token-based ones?"""

__all__ = ["__version__"]

__version__ = "0.1.0"
