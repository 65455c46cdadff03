"""The engine without a page, for a terminal."""
