"""Measurements on a model: numbers found on samples, never proofs."""
