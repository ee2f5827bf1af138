"""One module per real part; each has a function that returns a :class:`stack.parts.base.Part`."""
