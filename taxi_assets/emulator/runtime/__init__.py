"""What the emulator holds and does: endpoints, models, online tables, payloads, runs."""
