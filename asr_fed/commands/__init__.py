"""What a user types: parsing, and how a command ends. Nothing imports this room but the commands themselves."""
