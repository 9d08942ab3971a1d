"""Tasks of supervised transfer: what is asked of fused tokens, how the answer is judged and counted."""
