"""Prefect flows: order, fan-out, concurrency."""
