"""What a notebook calls: finished runs, and what can be learned from them."""
