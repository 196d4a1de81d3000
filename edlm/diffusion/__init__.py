"""The masking process: schedules, noising, reveal orders. No networks here."""
