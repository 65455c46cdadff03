"""The recipe of the pocket model: a very small Stable Diffusion trained on a world drawn by this package."""
