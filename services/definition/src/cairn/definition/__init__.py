"""The Definition service: owns journeys and their versions. Refuses to know a profile."""
