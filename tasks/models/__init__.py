"""Networks to dissect and CLIP models: loaded once per process, with the identity of what was loaded."""
