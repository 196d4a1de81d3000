"""An experiment: settings, jobs, metrics, results."""
