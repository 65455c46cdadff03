"""The page: Gradio on top of the engine's parent side. Nothing below imports torch."""
