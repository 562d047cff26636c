"""Would verify notice? Mistakes are planted on purpose, and each must be rejected.

* Truth mutants (faults, terms, extents): a right library's results, damaged as this field's real mistakes did, each also at 2 % of its
  size, in one head only and in the last chunk only.
* Kernel mutants (edits, compiling, trial): the kernel's own source with one edit, compiled for the host and run in a child process.
* proof: both together, and what the receipt says of them.
"""
