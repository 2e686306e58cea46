"""Figures that the benchmarks alone need, beside those of metrics/, which nodes show. Knows numpy, OpenCV and scikit-image only."""
