"""What a report shows of a set: some samples, kept and dropped, and histograms."""
