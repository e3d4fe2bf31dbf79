"""Trips: found and read (sources, files, normalize), judged (clean), generated (demo), ingested."""
