"""What a notebook calls: finished runs, and what can be learnt from them."""
