"""State that moves between plans and numbers of ranks."""
