"""One module a tab: `build()` makes the components, `connect()` wires them, handlers are plain functions."""
