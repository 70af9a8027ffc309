"""Stand-ins for the outside world, as real processes. Refuses to stand in for any part of Cairn itself."""
