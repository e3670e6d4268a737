"""One command a module, each a function that Typer reads; what is heavy is imported when it runs."""
