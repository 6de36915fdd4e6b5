"""What the product's promises measure on this machine: `python -m transkd_ros.benchmark`.

One module a measurement (`rate`, `node_cost`, `engines`, `baseline`, `startup`, `freshness`, `memory`, `offline_rate`,
`pair_cost`), each with a function `measure(settings) -> Measurement`. `naive` is the peer of `rate`; `measurement` has
what they share; `record` is what the docs show of it, `row` a line about this machine for them; `__main__` is the
command. Everything runs on rendered scenes.
"""
