"""What the variants of one kernel family share, so that a variant's folder holds its difference only: one module a family, and its torch part
in `<family>_reference.py`. The CUDA half is csrc_common/elman/families/."""
