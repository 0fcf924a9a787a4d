"""From container to container: `importing.import_checkpoint`, `exporting.export_checkpoint`, and the proof of both."""
