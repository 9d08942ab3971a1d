"""Encoders: anything that turns the Inputs of one modality into Tokens."""
