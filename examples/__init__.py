"""Modules and data that the configs name."""
