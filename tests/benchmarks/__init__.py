"""What is timed. Each module runs as `python -m tests.benchmarks.NAME`; its last line is one JSON object."""
