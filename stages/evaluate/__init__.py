"""Evaluate: retrieval, zero-shot, answers and alignment on held-out data, as figures and as a report."""
