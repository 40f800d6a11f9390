"""From a delivered file to a frozen table: the contract, the quarantine, the store and the snapshot."""
