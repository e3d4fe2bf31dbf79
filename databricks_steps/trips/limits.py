"""What a trip may be, for the rules of trips, for training and for requests alike."""

from __future__ import annotations

# Zones end at 265, but zip codes may stand in for them.
FIRST_LOCATION, LAST_LOCATION = 1, 99_999
SHORTEST_SECONDS, LONGEST_SECONDS = 30, 4 * 3600
LEAST_MILES, MOST_MILES = 0.05, 100
LEAST_FARE, MOST_FARE = 2.50, 250
FASTEST_MPH = 80
