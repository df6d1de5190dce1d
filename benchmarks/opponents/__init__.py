"""What `bench wan` compares: this project, and what people use today, each peer in a process of its own."""
