"""The training engine of APT Studio: photos and a config in, a stream of events and a LoRA out. Knows nothing of the page."""

VERSION = "0.1.0"
