"""Which engine, device and precision are fastest here: `python -m transkd_ros.tune`. The measuring is in
`transkd_ros.model.tuning`."""
