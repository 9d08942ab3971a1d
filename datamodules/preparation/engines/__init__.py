"""Where samples are examined: in worker processes of this machine, or on many machines."""
