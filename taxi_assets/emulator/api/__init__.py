"""What the emulator answers: routes, their bodies and the way of a query."""
