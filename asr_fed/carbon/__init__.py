"""What a federation would emit, beside the same training in a data centre. Every constant has a source and bounds."""
