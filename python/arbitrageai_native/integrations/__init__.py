"""What this package brings for web frameworks. A module needs its framework; none is imported by itself."""
