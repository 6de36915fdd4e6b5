"""What the product's promises measure on this machine: `python -m transkd_ros.benchmark`.

One module a measurement (`rate`, `node_cost`, `freshness`, `memory`, `engines`, `offline_rate`, `pair_cost`), each with
a function `measure(settings) -> Measurement`. `naive` is the peer of `rate`; `measurement` holds what they share; `row`
is a line about this machine for the docs; `__main__` is the command. Everything runs on rendered scenes.
"""
