"""Pictures of strangers are decoded in a process of their own, which has little memory, little time, and nothing to lose."""
