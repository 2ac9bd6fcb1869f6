"""Figures of the long run."""

from tests.figures import figures

__all__ = ["figures"]
