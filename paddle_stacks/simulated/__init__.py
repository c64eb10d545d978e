"""A simulated DCU host: a folder that looks, to whoever reads it, like a host's root.

``recorded/`` holds what ``hy-smi`` was seen to print: headings, units, spacing and
end lines as they were published; where a record had fewer than eight cards, the
others are filled in in its image.
"""
