"""What runs the flows: a server of the run's own, task runners, progress. No flow and no task is defined here."""
