"""Planning: what a run will need, found from shapes alone: how it is spread, its memory, its time, and the report."""
