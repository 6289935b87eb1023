"""Programs for maintainers: training of the demo model, its world, calibration tables. Not part of the wheel."""
