"""What changed from one export to another: written, and made into a full export again."""
