"""The laboratory: many small paired runs that ask when each part of Uni-OPD helps."""
