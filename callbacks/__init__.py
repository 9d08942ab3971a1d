"""What watches a training run, one concern per file."""
