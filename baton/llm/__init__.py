"""Steps that call language models: what is paid for is kept, counted and priced."""
