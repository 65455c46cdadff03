"""The training engine of APT Studio: photos and a config in, a stream of events and a LoRA out. Knows nothing of the page."""

import logging

VERSION = "0.1.0"
# Where it is installed accelerate loads it with everything, and it advises a kernel that few need.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
