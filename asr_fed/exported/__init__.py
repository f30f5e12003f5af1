"""What an exported folder is made from: templates of its texts, and the Python that it carries."""
