"""Where probe images come from. A kind of source is a class; `kinds.py` tells them apart, `joined.py` joins them."""
