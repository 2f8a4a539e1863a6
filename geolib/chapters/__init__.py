"""One room per chapter of the book: its analysis, its tables and its pictures."""
