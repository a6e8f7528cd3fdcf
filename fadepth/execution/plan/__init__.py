"""What `snakemake TARGET` would do, told before anything is spent: `fadepth plan`.

`jobs` asks Snakemake itself what would run; `progress` says how far a training is and how many
steps it has; `times` what a step takes, from what was measured (`calibrate` measures a few); `disk`
what a run will take; `schedule` turns hours into wall time, and says what fits a budget; `plan`
puts it together. Nothing is written but calibrations.
"""
