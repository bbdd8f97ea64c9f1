"""The CLIP-Dissect method: arrays in, arrays out; no Prefect, no Zarr, no paths."""
