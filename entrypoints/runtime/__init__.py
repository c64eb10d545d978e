"""What every job uses, whatever it does: arguments, events, locks, signals, launching."""
