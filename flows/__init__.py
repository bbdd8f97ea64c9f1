"""Prefect flows: order, fan-out, concurrency."""

from flows.engine.environment import prepare

prepare()
