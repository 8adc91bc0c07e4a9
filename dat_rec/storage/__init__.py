"""Object stores: addresses such as s3://bucket/data, read pinned and published whole."""
