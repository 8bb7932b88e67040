"""What decides beside the rules: baselines, waivers and coverage; a report in, a report out."""
