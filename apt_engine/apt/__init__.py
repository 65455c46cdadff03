"""APT (Chae et al., CVPR 2025, arXiv 2507.02687) as pure torch functions and small running statistics."""
