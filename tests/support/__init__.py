"""Helpers of the tests: commands, small models, environments, golden numbers."""
