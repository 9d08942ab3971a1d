"""Serving: the aligned encoders and the assistant over HTTP."""
