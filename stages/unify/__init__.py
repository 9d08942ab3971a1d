"""One causal model over words and the units of other modalities: its training, and commands that use what it left."""
