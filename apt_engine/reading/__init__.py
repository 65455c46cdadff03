"""Files of others, read with care."""
