"""What the reports of stages are made of: elements, charts, media, and the page around them."""
