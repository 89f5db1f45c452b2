"""A page on an exported model: see images scored, draw a defect, see what that changes, save it. Needs ``[app]``."""
