"""What is said about a result: a checked sentence, the query in words, its plan, faster forms of it, and reports."""
