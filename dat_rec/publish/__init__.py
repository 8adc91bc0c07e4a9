"""An export in, its items in a vector store out: filled, checked against exact search, switched."""
