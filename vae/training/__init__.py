"""The objective and how it is minimised: loss, schedule, epochs, validation, several processes."""
