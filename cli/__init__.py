"""How a person meets the runtime: commands, the Hub, the local store, the terminal."""
