"""What the variants of one kernel family share, so that a variant's folder holds its difference only: one module a family, and its torch
parts in `<family>_reference.py` and `<family>_layer.py`. The CUDA half is csrc_common/elman/families/."""
