"""The parts of scripts/claims: plan, records, runner, fronts, picture, report."""
