"""Devices that measure for a search: of this host, of a tracker, several at once."""
