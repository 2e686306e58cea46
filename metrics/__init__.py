"""Figures of an edit: what the background kept, and how well a mask fits. Knows numpy and OpenCV only."""
