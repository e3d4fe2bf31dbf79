"""The commands of `taxi-assets`, a module for each subject."""
