"""Photos in: decoded in a process that has nothing to lose, checked, and cropped to squares around the subject."""
