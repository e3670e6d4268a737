"""Between text and tokens: tokenizer, chat template, and the channels of what a model writes."""
