"""Measurements behind what the documentation says about policies and weights."""
