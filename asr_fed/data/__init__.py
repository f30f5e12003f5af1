"""Speech on its way to the model: manifest, partition by speaker, tokenizer, features, batches."""
