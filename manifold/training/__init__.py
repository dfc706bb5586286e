"""The machine above the methods: cohorts, data, checkpoints, records, launching."""
