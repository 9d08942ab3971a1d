"""Fusion: the Tokens of several modalities to the Tokens of one sample."""
