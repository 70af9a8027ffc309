"""The Scheduler: owns timers, and fires those that are due. Refuses to know what a timer means."""
