"""The LoRA: on a denoiser, and as a file in the layouts of other programs."""
