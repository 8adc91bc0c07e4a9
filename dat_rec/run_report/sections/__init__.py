"""The page's sections, one a file: what runs' folders say in, HTML out."""
