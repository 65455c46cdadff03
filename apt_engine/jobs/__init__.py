"""Who runs a training or draws pictures, in which process and in which order."""
