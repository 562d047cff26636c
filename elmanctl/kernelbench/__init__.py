"""`bench --kernels`: a recurrence timed alone, against what libraries have for the same sizes.

* inputs.py  what a layer really gives its kernel       * rivals.py    the libraries' recurrences
* clock.py   graph replay, interleaved, quantiles       * ceilings.py  what the device can do, measured in the same run
* shapes.py  which sizes, and the sweeps over T, B, D   * run.py, show.py, plot.py  rows, tables, pictures
"""
