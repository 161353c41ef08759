"""Trains a model on rows of token ids."""
