"""What calibration data says of channels: statistics, consumers, gates, criteria."""
