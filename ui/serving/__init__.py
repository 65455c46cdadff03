"""Who may come in, whose things are whose, and the routes beside Gradio's."""
