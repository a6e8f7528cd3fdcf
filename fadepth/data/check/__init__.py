"""What is there of a data set, what is missing or broken, and what to do about it.

`inventories` has one class per data set, which names the files that are needed; `walk` looks at
them; `report` is what is told; `space` estimates disk and time. Nothing is written.
"""
