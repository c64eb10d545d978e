"""Shared parts of all jobs: arguments, events, locks, logging, signals, launcher, rendezvous."""
