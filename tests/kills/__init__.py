"""Runs that are killed anywhere, and what their reruns give."""
