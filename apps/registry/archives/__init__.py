"""Image archives that somebody sent: what is in them, and whether it may be pushed. Nothing is extracted."""
