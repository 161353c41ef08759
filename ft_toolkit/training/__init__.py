"""Rows and an adapter in, a trained adapter out."""
