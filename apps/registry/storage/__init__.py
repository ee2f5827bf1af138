"""The registry's storage as files: what is stored, what names it, and giving the rest back. Plain Python."""
