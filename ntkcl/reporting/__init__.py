"""What a person looks at: the terminal, tables, figures, pages, Weights & Biases."""
