"""Figures of an edit that nodes show: what the background kept, how steady the object is, and how well a trajectory leads back."""
