"""Checks of what the documentation claims of policies and weights."""
