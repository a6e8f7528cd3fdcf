"""What is there of a data set, what is missing or broken, and what to do about it.

One module for each data set says which files are needed (an `Inventory`); `walk` looks at them with
`soundness`, `space` estimates disk and time, and `report` is what is told. Nothing is written.
"""
