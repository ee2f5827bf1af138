"""Engines run containers on one host. Plain Python: dataclasses in and out, no Django."""
