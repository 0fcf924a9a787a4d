"""The promise in the user's own code: preflight, verified loads, proof of other people's loads, adapters."""
