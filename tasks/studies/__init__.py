"""The paper's studies of a published run: a module each, which gives an `Outcome` of a `FinishedRun`.

A study reads what the run published, and what it was made of in the store; it records nothing anew. What is drawn
at random has a seed: the same study of the same run gives the same files to the byte.
"""
