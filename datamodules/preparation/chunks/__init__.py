"""Long texts, sounds and videos in pieces that overlap, and pieces put together again."""
