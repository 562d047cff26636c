"""Reports: rows made of records, what is unequal among them, and their text forms."""
