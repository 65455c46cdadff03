"""The base models: what the engine needs of one (`base.py`), one module a family, and how to find one (`registry.py`)."""
