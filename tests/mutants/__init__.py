"""Faults that are planted one at a time into a copy of the code, to show that a test sees each: `make mutants`."""
