"""Plain PyTorch: batches become tokens, embeddings and losses."""
