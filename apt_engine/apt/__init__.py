"""APT (Chae et al., CVPR 2025, arXiv 2507.02687) as pure torch functions and small running statistics.

The paper's full text was never at hand. Each formula says where it comes from: [paper] the authors' abstract and figures,
[readers] people who read it and a second implementation, which agree, or [ours].
"""
