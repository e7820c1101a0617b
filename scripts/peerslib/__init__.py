"""The parts of scripts/bench-peers: rows, quantizers, measure, results."""
