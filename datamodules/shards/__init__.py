"""WebDataset tars: written whole, indexed, read by position, in an order that one integer resumes."""
