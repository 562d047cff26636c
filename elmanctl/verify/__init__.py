"""Is a kernel right? Truth in fp64, a floor from the roundings it declares, and properties that need no truth.

* cases: what is run; truth and rounding: what is right and how exact it can be; tolerance: the rule.
* run: one case on one library; properties: what holds bit for bit; layers, liveness: whole layers and their options.
* parity: a tiny model trained with the kernel and with the reference.
* plan: which checks a request comes to; session and pool: all of them in worker processes.
* receipt: the record that training and reports ask for. show: tables.

`receipt` and `cases` import without torch.
"""
