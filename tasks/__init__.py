"""Units of work: what one task does, and the pure method beneath."""
