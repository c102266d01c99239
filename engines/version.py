"""The version of SkimRT, in its one place."""

__version__ = "0.1.0"
