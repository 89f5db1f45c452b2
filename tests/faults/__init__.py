"""A campaign of bad and hostile inputs: each has to end in a defined answer, or in one sentence."""
