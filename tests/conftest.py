"""What every test shares: the recorder of contract outcomes (`--record-contract-status FILE`)."""

pytest_plugins = ("apr.contracts.pytest_plugin",)
