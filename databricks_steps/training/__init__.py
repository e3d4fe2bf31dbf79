"""Training: the training set, the forest, how it is judged, and who is champion."""
