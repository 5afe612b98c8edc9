"""Curves of a scaling study with honest uncertainty: tables, ratios to the teacher, power laws."""
