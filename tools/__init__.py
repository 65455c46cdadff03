"""What development needs and the app does not."""
