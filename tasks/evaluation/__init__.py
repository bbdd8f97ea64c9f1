"""How good labels are: those of a run, or of anybody's table, against what the neurons are known to detect."""
